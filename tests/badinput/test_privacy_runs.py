"""What is marked private stays where it is: no pixels, hospitals or case ids of it leave with a run."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lock_factory import arm_run, study_lock
from private_factory import NAMES, SECRET, private_catalog

from trocar.backbones.card import model_card
from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.errors import TrocarError
from trocar.leakage.exposure import RecordedHistory
from trocar.privacy.aliases import Aliases, withheld, withhold
from trocar.privacy.private_data import is_private, private_names


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.text("abCÄ .-'7", min_size=2, max_size=9), min_size=1, max_size=4), st.text(max_size=9), st.booleans()
)
def test_no_name_survives_in_a_text_in_any_case(names: list[str], around: str, upper: bool) -> None:
    hidden = Aliases(names)
    for name in hidden.names:
        if name.isdecimal() and len(name) < 4:
            continue
        shown = hidden.text(f"{around} {name.upper() if upper and len(name.upper()) == len(name) else name}, {around}")
        assert f" {name}," not in shown
    assert hidden.tree({"a": names}) == {hidden.text("a"): [hidden.text(name) for name in names]}


def test_words_that_only_contain_a_name_and_bare_numbers_stay() -> None:
    hidden = Aliases(["north", "7", "St Mary"])
    assert hidden.text("northern lights, step 7") == "northern lights, step 7"
    assert hidden.text("7") != "7"
    assert hidden.text("/data/North_2020/st\n  mary.mp4").count("withheld-") == 2


def test_a_damaged_list_of_names_shows_nothing_rather_than_all(tmp_path: Path) -> None:
    withhold(tmp_path, NAMES)
    assert stat.S_IMODE((tmp_path / "private.json").stat().st_mode) == 0o600
    assert withheld(tmp_path).names == sorted(NAMES)
    (tmp_path / "private.json").write_text('{"names": ["Insel')
    with pytest.raises(TrocarError, match=r"private\.json is damaged"):
        withheld(tmp_path)
    assert not withhold(tmp_path, ())
    assert not withheld(tmp_path)


def test_private_are_the_videos_that_are_marked_and_no_others(tmp_path: Path) -> None:
    catalog = private_catalog(tmp_path, (True, False, True))
    assert private_names(catalog) == {
        *("Inselspital0", "case-0815", "video00"),
        *("Inselspital2", "case-0817", "video02"),
    }
    assert is_private(catalog, np.arange(18)).tolist() == [True] * 6 + [False] * 6 + [True] * 6


def run_folder(tmp_path: Path, catalog: Catalog, names: set[str], share: bool = False) -> Path:
    """A run folder as a pretraining leaves it, without its weights; what it selects is named by hospital and case."""
    from trocar.runs.run_folder import Run

    run = tmp_path / "runs" / "on_Inselspital0"
    run.mkdir(parents=True)
    withhold(run, names)
    config = {
        "data": {
            "catalog": str(catalog.root),
            "composition": {
                "curate": "none",
                "exclude": [{"hospital": ["Inselspital2"], "case": ["case-0817"]}],
                "include": [{"hospital": ["Inselspital0", "Openclinic1"]}],
            },
        },
        "privacy": {"share_frames": share},
        "run": {"seed": 1},
    }
    with Run.open(run, config) as record:
        record.log(0, {"loss": 1.0})
    return run


def test_the_report_shows_public_frames_only_and_no_private_name(tmp_path: Path) -> None:
    from trocar.report.gather_run import gather
    from trocar.report.run_report import render

    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = run_folder(tmp_path, catalog, private_names(catalog))
    inputs = gather(run, views={"g": np.zeros((1, 1, 8, 8, 3), np.uint8)})
    page = render(inputs)
    assert [name for name in SECRET if name in page] == []
    assert inputs.frames is not None
    assert all(caption.startswith("case-0816") for caption in inputs.frames.captions)
    assert inputs.views is None
    assert any("6 of the 12 selected frames are of private videos" in note for note in inputs.notes)
    assert "Openclinic1" in page


def test_a_mark_that_was_set_after_the_run_counts_too(tmp_path: Path) -> None:
    from trocar.report.gather_run import gather
    from trocar.report.run_report import render

    catalog = private_catalog(tmp_path / "shards", (True, True, True))
    run = run_folder(tmp_path, catalog, set())
    inputs = gather(run)
    assert inputs.frames is None
    assert [name for name in SECRET if name in render(inputs)] == []


@pytest.mark.parametrize("by_flag", [True, False])
def test_sharing_is_asked_for_and_then_said_on_the_page(tmp_path: Path, by_flag: bool) -> None:
    from trocar.report.gather_run import gather
    from trocar.report.run_report import render

    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = run_folder(tmp_path, catalog, set(), share=not by_flag)
    inputs = gather(run, share_frames=True if by_flag else None)
    assert inputs.frames is not None
    assert {caption.split()[0] for caption in inputs.frames.captions} == {"case-0815", "case-0816"}
    assert "frames of private videos" in render(inputs)


def test_mlflow_gets_no_private_name(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from trocar.runs.mlflow_sync import sync

    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = run_folder(tmp_path, catalog, private_names(catalog))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    found = MlflowClient(uri).get_run(sync(run, uri).mlflow_run_id)
    text = json.dumps([found.data.params, found.data.tags, found.info.run_name])
    assert [name for name in SECRET if name in text] == []
    assert "Openclinic1" in found.data.params["data.composition.include"]
    database = (tmp_path / "mlflow.db").read_bytes()
    assert [name for name in SECRET if name.encode() in database] == []


def test_a_study_in_mlflow_has_no_private_name(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from trocar.study.stages import Store
    from trocar.study.whole_study import _parent

    arm = "hospital=Inselspital0"
    run = arm_run(arm=arm, cases=("ours/case-0815", "ours/case-0816"), epochs={"ours": 1.0})
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    hidden = Aliases(private_names(private_catalog(tmp_path / "shards", (True, False, True))))
    run_id = _parent(study_lock(runs=(run,)), Store(tmp_path / "home"), arm, uri, hidden)
    found = MlflowClient(uri).get_run(run_id)
    text = json.dumps([found.data.params, found.data.tags, found.info.run_name])
    assert [name for name in SECRET if name in text] == []
    assert found.data.params["cases"] == "2"


def test_the_model_card_has_no_private_name(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = run_folder(tmp_path, catalog, private_names(catalog))
    (run / "backbone").mkdir()
    (run / "backbone" / "config.json").write_text('{"architecture": "resnet18"}')
    save_file({"w": torch.zeros(2)}, run / "backbone" / "model.safetensors")
    card = model_card(run, run / "backbone", RecordedHistory())
    assert [name for name in SECRET if name in card] == []
    assert "Openclinic1" in card


def test_a_pretraining_leaves_the_names_and_logs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = tmp_path / "run_Inselspital0"
    places = [f"data.catalog={catalog.root}", f"run.out={run}", "tracking.uri=none"]
    small = ["train.steps=1", "train.batch=4", "run.workers=0", "data.composition.curate=none"]
    command = ["pretrain", "small_dino", *places, *small]
    assert main([*command, "data.composition.sample={frames: 9, per: [hospital]}"]) == 2
    refused = capsys.readouterr().err  # what the user typed does not fit: said with the names it is about
    assert "Inselspital0" in refused
    assert main([*command, "data.composition.sample={frames: 6, per: [hospital]}"]) == 0
    output = "".join(capsys.readouterr())
    assert "run folder" in output
    assert [name for name in SECRET if name in output] == []
    assert withheld(run).names == sorted(private_names(catalog))


def test_an_exported_backbone_has_no_private_name_in_its_configuration(tmp_path: Path) -> None:
    from trocar.backbones.export import export_timm, save_backbone
    from trocar.backbones.load import load_backbone
    from trocar.leakage.exposure import Part

    run = tmp_path / "on_Inselspital0"
    part = Part("pretraining", run.name, cases=("ours/case-0815",), catalog="/data/Inselspital0/shards")
    save_backbone(load_backbone("random:test_resnet"), run / "backbone", extra={"exposure": [part.as_json()]})
    withhold(run, ["Inselspital0", "case-0815"])
    export_timm(run, tmp_path / "out", RecordedHistory())
    text = (tmp_path / "out" / "config.json").read_text()
    assert "withheld-" in text
    assert [name for name in ("Inselspital0", "case-0815") if name in text] == []


def test_names_of_labelled_data_that_the_leak_guard_compares_with_are_withheld(tmp_path: Path) -> None:
    from downstream_factory import make_folder

    from trocar.leakage.held_out_sources import held_out

    data = make_folder(tmp_path / "labels_Inselspital", cases=2, frames=2)
    (data / "private.yaml").write_text("cases: [case1]\nnames: [Inselspital]\n")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        found = held_out([str(data)], said.append)
    assert found.private.names == {"case1", "Inselspital"}
    assert said
    assert not any("Inselspital" in line for line in said)
