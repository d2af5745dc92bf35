"""What is settled before anything is decoded: who goes through what, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
from downstream_factory import make_cholec80, make_folder
from mask_factory import make_mask_folder
from training_factory import open_bench

import trocar.downstream.evaluation.evaluate as evaluate_module
from trocar.cli.main import main
from trocar.downstream.evaluation.contenders import SIZE, Contender, Replicate, sizes, usable
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.features import frame_cache
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols.base import PROTOCOLS
from trocar.errors import ConfigError
from trocar.jobs.evaluate import evaluate

NET = Contender("net", "backbone", (Replicate("net", None, 48),))
PIXELS, MAJORITY = (
    Contender("raw pixels", "baseline", (Replicate("raw pixels"),)),
    Contender("majority", "majority", (Replicate("m"),)),
)
TWO = [{"name": "knn", "neighbours": 1, "title": "1-NN"}, {"name": "knn", "title": "20-NN"}]


def refused(root: Path, **settings: Any) -> str:
    """The ConfigError of an evaluation that must not decode anything."""
    unread = patch.object(evaluate_module, "FrameCache", side_effect=AssertionError("decoded"))
    with unread, pytest.raises(ConfigError) as error:
        evaluate(EvaluateConfig(data=root, **{"bootstrap": 0, **settings}))
    return str(error.value)


def test_an_arm_goes_through_the_protocols_that_fit_the_task_and_the_arm(tmp_path: Path) -> None:
    some = [get_protocol(name) for name in PROTOCOLS.names()]
    labels = make_folder(tmp_path / "labels", cases=2, frames=2)
    masks = make_mask_folder(tmp_path / "masks", cases=2)
    found = {
        (arm.label, task): [protocol.name for protocol in usable(arm, some, open_bench(root, task))]
        for root, task in ((labels, "phase"), (labels, "tools"), (labels, "phase+tools"), (masks, "segmentation"))
        for arm in (NET, PIXELS, MAJORITY)
    }
    for task in ("phase", "tools"):
        of_frames = ["finetune", "knn", "linear", "temporal_finetuned", "temporal_frozen"]
        assert sorted(found["net", task]) == of_frames
        assert sorted(found["raw pixels", task]) == ["knn", "linear", "temporal_frozen"]
        assert found["majority", task] == ["prior"]
    assert [found[arm, "phase+tools"] for arm in ("net", "raw pixels", "majority")] == [["finetune"], [], []]
    assert [found[arm, "segmentation"] for arm in ("net", "raw pixels", "majority")] == [
        ["segmentation"],
        [],
        ["constant_mask"],
    ]


def test_frames_are_wanted_at_the_sizes_that_some_row_reads(tmp_path: Path) -> None:
    root = make_mask_folder(tmp_path / "data", cases=2)
    phase, masks = open_bench(root, "phase"), open_bench(root, "segmentation")
    knn, own = get_protocol("knn"), get_protocol({"name": "segmentation", "image": [32, 64]})
    assert sizes([NET, PIXELS, MAJORITY], [phase, masks], [knn, own]) == {SIZE, 48, (32, 64)}
    assert sizes([NET, MAJORITY], [masks], [own]) == {(32, 64)}


def test_two_entries_of_one_protocol_are_told_apart_by_their_titles(tmp_path: Path) -> None:
    root, out = make_folder(tmp_path / "data", cases=3, frames=6), tmp_path / "out"
    found = evaluate(
        EvaluateConfig(data=root, protocol=TWO, baselines=["mean colour", "majority"], bootstrap=0, out=out)
    )
    assert [row.protocol for row in found.rows] == ["1-NN", "20-NN", "prior"]
    assert [row.detail[0][0].get("k") for row in found.rows] == [1, 6, None]
    assert set(pd.read_parquet(out / "predictions.parquet")["protocol"]) == {"1-NN", "20-NN", "prior"}
    assert {f"phase-mean_colour-{k}_NN-confusion.png" for k in (1, 20)} <= {p.name for p in (out / "figures").iterdir()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": ["knn", {"name": "knn", "neighbours": 3}]}, "'phase' would have 2 rows that are called 'knn'"),
        ({"protocol": ["linear", {"name": "knn", "title": "linear"}]}, "2 rows that are called 'linear'"),
        ({"task": ["phase", "phase"], "protocol": ["knn"]}, "2 rows that are called 'knn'; leave out what is there"),
        (
            {"task": ["phase+tools"], "protocol": ["finetune", {"name": "finetune", "epochs": 2}]},
            "2 rows that are called 'finetune, phase[+]tools'",
        ),
    ],
)
def test_rows_of_equal_names_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    said = refused(make_folder(tmp_path / "data", cases=2, frames=2), **settings)
    assert message.replace("[+]", "+") in said
    assert "title" in said


@pytest.mark.parametrize("title", ["a|b", "two\nlines", "x" * 81])
def test_a_title_that_a_table_cannot_hold_is_refused(title: str) -> None:
    with pytest.raises(ConfigError, match="title"):
        get_protocol({"name": "knn", "title": title})


def test_a_task_that_no_protocol_here_can_learn_names_those_that_can(tmp_path: Path) -> None:
    root = make_mask_folder(tmp_path / "data", cases=2)
    said = refused(root, task=["segmentation"], protocol=["knn", "linear"])
    assert "'segmentation' (mask labels) cannot be learned by knn, linear; those that can: segmentation" in said
    said = refused(root, task=["phase"], protocol=["segmentation"])
    assert "those that can: finetune, knn, linear, temporal_finetuned, temporal_frozen" in said
    said = refused(root, task=["phase+segmentation"], protocol=["finetune"])
    assert "cannot be learned by finetune; those that can: none" in said


def test_a_protocol_that_can_learn_none_of_the_tasks_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", cases=2, frames=2)
    said = refused(root, task=["phase", "tools"], protocol=["knn", "segmentation"])
    assert said == "protocol 'segmentation' can learn none of phase, tools"


def test_without_arms_or_with_arms_that_cannot_learn_there_is_nothing_to_evaluate(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", cases=2, frames=2)
    assert refused(root, baselines=[]) == "nothing to evaluate: give --backbone, or baselines"
    for task in ("phase", "phase+tools"):
        said = refused(root, task=[task], protocol=["finetune"], baselines=["raw pixels"])
        assert said == f"task {task!r}: nothing to evaluate: raw pixels cannot go through finetune; give --backbone"


def test_a_backbone_may_not_be_called_like_a_baseline(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", cases=2, frames=2)
    said = refused(root, backbone=["majority=random:test_resnet"], baselines=["majority"], size=32)
    assert "two backbones are called 'majority'; name them" in said


def test_frames_come_from_shards_where_they_are_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, shards = make_cholec80(tmp_path / "data"), tmp_path / "shards"
    ingest = ["--out", str(shards), "--crop", "none", "--short-side", "none", "--workers", "1"]
    assert main(["ingest", str(data / "videos"), *ingest]) == 0
    settings = ["--task", "phase", "--protocol", "knn", "baselines=[mean colour]", "bootstrap=0", "figures=false"]
    command = ["evaluate", *settings, "--data", str(data)]
    assert main([*command, "--out", str(tmp_path / "videos-out")]) == 0
    with patch.object(frame_cache, "_read_video", side_effect=AssertionError("a video was opened")):
        assert main([*command, "--shards", str(shards), "--out", str(tmp_path / "shards-out")]) == 0
    found = [
        json.loads((tmp_path / out / "results.json").read_text())["rows"][0]["metrics"]
        for out in ("videos-out", "shards-out")
    ]
    assert found[0] == found[1]
    assert found[0]["f1@pooled_macro"]["mean"] == 1.0
    capsys.readouterr()
    gone = ["--shards", str(tmp_path / "gone"), "--out", str(tmp_path / "x")]
    assert main([*command, *gone]) == 2
    assert str(tmp_path / "gone") in capsys.readouterr().err


def test_metrics_json_is_what_the_metrics_command_writes(tmp_path: Path) -> None:
    root, out = make_folder(tmp_path / "data", cases=3, frames=6), tmp_path / "out"
    config = EvaluateConfig(
        data=root, task=["phase", "tools"], protocol=TWO, baselines=["mean colour", "majority"], bootstrap=20, out=out
    )
    found = evaluate(config)
    written = json.loads((out / "metrics.json").read_text())
    again = tmp_path / "again.json"
    assert main(["metrics", str(out / "predictions.parquet"), "--bootstrap", "20", "--out", str(again)]) == 0
    assert json.loads(again.read_text()) == written
    assert len(written["rows"]) == len(found.rows) == 6
    for row in written["rows"]:
        for name, values in found.row(row["task"], row["protocol"], row["backbone"]).values.items():
            assert row["metrics"][name]["value"] == pytest.approx(values[row["replicate"]], abs=1e-6)


def test_runs_are_told_apart_by_replicate_draw_and_start(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", cases=3, frames=4)
    found = evaluate(
        EvaluateConfig(
            backbone=["net=random:test_resnet"], data=data, protocol=["knn"], baselines=[], seeds=2, size=32,
            budget=1, draws=2, bootstrap=0, cache=tmp_path / "cache",
        )
    )  # fmt: skip
    (row,) = found.rows
    assert row.members == ["seed 0, draw 0", "seed 0, draw 1", "seed 1, draw 0", "seed 1, draw 1"]
    assert row.runs == [RunIndex(0, 0, 0), RunIndex(0, 1, 0), RunIndex(1, 0, 0), RunIndex(1, 1, 0)]
    parts = dict(list(found.predictions.groupby(list(RunIndex._fields))))
    right = [float((parts[run]["gt"] == parts[run]["pred"]).mean()) for run in row.runs]
    assert row.values["accuracy@pooled"] == pytest.approx(right)
    assert [run._asdict() for run in row.runs] == found.to_json()["rows"][0]["runs"]


def test_figures_are_drawn_unless_they_are_turned_off(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", cases=2, frames=4)
    for figures in (True, False):
        out, lines = tmp_path / str(figures), []  # type: ignore[var-annotated]
        config = EvaluateConfig(
            data=root, protocol=["knn"], baselines=["mean colour"], bootstrap=0, out=out, figures=figures
        )
        evaluate(config, lines.append)
        assert (out / "figures").is_dir() is figures
        assert any("figures are in" in line for line in lines) is figures
        names = {path.name for path in (out / "figures").glob("*")}
        assert ("phase-mean_colour-knn-confusion.png" in names) is figures
