"""The public functions: configuration or keywords in, result objects out."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from data_factory import make_catalog
from downstream_factory import make_folder, write_clip
from own_factory import simclr_run
from run_factory import assert_identical
from study_factory import make_study
from torch import nn

import trocar
from trocar.cli.main import main
from trocar.core.config import validate
from trocar.errors import ConfigError
from trocar.ssl.run.pretrain_config import PretrainConfig

EVALUATION = {"protocols": ["knn"], "baselines": ["majority"], "bootstrap": 0, "figures": False, "size": 32}


@pytest.fixture
def shards(tmp_path):
    make_catalog(tmp_path / "shards", 2, 8)
    return tmp_path / "shards"


def test_importing_trocar_imports_nothing_heavy_and_takes_no_time():
    program = (
        "import sys, time; t = time.process_time(); import trocar; t = time.process_time() - t; dir(trocar); "
        "print(t, [m for m in ('torch', 'timm', 'numpy', 'pandas', 'pyarrow', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    seconds, _, heavy = out.strip().partition(" ")
    assert heavy == "[]"
    assert float(seconds) < 0.3


def test_every_public_name_is_there():
    assert [name for name in trocar.__all__ if not hasattr(trocar, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        trocar.pretrian  # noqa: B018


@pytest.mark.parametrize(
    ("model", "words"), [(torch.nn.Linear, "hand over what it returns"), ("resnet18", r"backbone=\{'name': ...\}")]
)
def test_what_is_no_module_is_no_model(shards, tmp_path, model, words):
    with pytest.raises(ConfigError, match=rf"model is a module \(torch.nn.Module\), not .*{words}"):
        trocar.pretrain("small_simclr", data=shards, out=tmp_path / "run", model=model)


def test_one_word_is_no_list_of_tasks_or_protocols(tmp_path):
    with pytest.raises(ConfigError, match=r"protocols is a list, such as protocols=\['knn'\]"):
        trocar.evaluate(data=tmp_path, tasks=["phase"], protocols="knn")


@pytest.mark.parametrize("preset", ["small_simclr", "small_dino"])
def test_a_preset_without_folders_asks_for_them(preset):
    with pytest.raises(ConfigError, match=r"(?s)'data.catalog' is required.*'run.out' is required"):
        trocar.pretrain(preset)


def test_a_run_from_python_is_the_run_of_the_command_line(shards, tmp_path):
    tree = simclr_run(shards, tmp_path / "python")
    run = trocar.pretrain(tree)
    words = [f"{key}={value}" for key, value in (("run.out", tmp_path / "command"), ("data.catalog", shards))]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    assert main(["pretrain", str(tmp_path / "run.yaml"), *words]) == 0
    assert_identical(run.folder, tmp_path / "command", 4, resumed_after=0)
    assert list(run.metrics.index) == [0, 1, 2, 3]
    assert run.record["status"] == "finished"
    features = run.backbone().eval()(torch.zeros(2, 3, 32, 32))
    assert features.shape[0] == 2


def test_keywords_change_sections_in_part_and_say_what_is_wrong(shards, tmp_path):
    config = validate(PretrainConfig, simclr_run(shards, tmp_path / "run"), "test")
    run = trocar.pretrain(config, out=tmp_path / "other", train={"steps": 2}, **{"run.log_every": 2})
    assert run.folder == tmp_path / "other"
    assert list(run.metrics.index) == [0, 1]  # the last step is always logged
    with pytest.raises(trocar.ConfigError, match="did you mean 'steps'"):
        trocar.pretrain(config, train={"stepps": 2})
    with pytest.raises(trocar.ConfigError, match="not both"):
        trocar.pretrain(config, data=shards, batches=[])


def test_an_evaluation_gives_a_table_with_the_numbers_of_its_rows(tmp_path):
    root = make_folder(tmp_path / "labels")
    found = trocar.evaluate({"net": "random:test_resnet"}, data=root, out=tmp_path / "out", seeds=2, **EVALUATION)
    row = found.table.set_index("backbone").loc["net"]
    assert row["runs"] == 2
    assert row["value"] == found.results.row("phase", "knn", "net").mean("f1@pooled_macro")
    assert row["leak"] == "clean"
    assert set(found.predictions["backbone"]) == {"net", "majority"}
    assert found.report() == tmp_path / "out" / "results.md"
    with pytest.raises(trocar.ConfigError, match="backbone 'a=b'"):
        trocar.evaluate({"a=b": "random:test_resnet"}, data=root, **EVALUATION)


def test_labels_in_a_table_score_as_the_same_labels_in_a_folder(tmp_path):
    root = make_folder(tmp_path / "labels")
    of_folder = trocar.evaluate({"net": "random:test_resnet"}, data=root, **EVALUATION)
    table = pd.read_csv(root / "frames.csv")
    (root / "frames.csv").unlink()
    of_table = trocar.evaluate({"net": "random:test_resnet"}, data=table, root=root, **EVALUATION)
    pd.testing.assert_frame_equal(of_table.table, of_folder.table)
    named = {"phase": ["before", "after"]}
    assert list(trocar.evaluate({}, data=table, root=root, classes=named, **EVALUATION).predictions["gt"].unique())
    table.loc[2, "case"] = None
    with pytest.raises(trocar.TrocarError, match="no case"):
        trocar.evaluate({}, data=table, root=root, **EVALUATION)
    with pytest.raises(trocar.ConfigError, match="give root"):
        trocar.evaluate({}, data=table, **EVALUATION)


def test_a_module_scores_as_the_same_weights_by_name_and_its_verdict_is_unknown(tmp_path):
    root = make_folder(tmp_path / "labels")
    model = trocar.load_backbone("random:test_resnet")
    found = trocar.evaluate({"mine": Wrapped(model), "named": "random:test_resnet"}, data=root, seeds=1, **EVALUATION)
    rows = found.table.set_index("backbone")
    assert rows.loc["mine", "value"] == rows.loc["named", "value"]
    assert rows["leak"][["mine", "named"]].tolist() == ["unknown", "clean"]


class Wrapped(nn.Module):
    """Somebody's own class around a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


def test_ingest_returns_the_catalog_and_what_was_rejected(tmp_path):
    write_clip(tmp_path / "videos" / "a.mp4", 10)
    (tmp_path / "videos" / "b.mp4").write_bytes(b"no video")
    found = trocar.ingest(tmp_path / "videos", tmp_path / "shards", fps=1, short_side=48)
    assert len(found.catalog) == 2
    assert found.catalog[-1].size == (48, 48)
    assert [path.rpartition("/")[2] for path in found.rejected["path"]] == ["b.mp4"]
    with pytest.raises(IndexError):
        found.catalog[2]
    with pytest.raises(trocar.ConfigError, match="did you mean 'short_side'"):
        trocar.ingest(tmp_path / "videos", tmp_path / "shards", short_sid=48)


def test_predictions_of_anybody_are_scored_from_a_table(tmp_path):
    rows = {"case": ["a", "a", "b", "b"], "gt": [0, 1, 0, 1], "pred": [0, 1, 1, 1]}
    table = trocar.score_predictions(pd.DataFrame(rows), task="phase", classes=["x", "y"], bootstrap=0)
    value = table.set_index("metric")["value"]["accuracy@pooled"]
    assert value == trocar.metrics.accuracy_pooled(rows["gt"], rows["pred"]) == 0.75


@pytest.mark.slow
def test_a_study_from_python_ends_with_its_scores_and_its_report(tmp_path):
    said = []
    found = trocar.run_study(make_study(tmp_path), jobs=2, say=said.append)
    assert {"north", "south"} <= {*found.table["arm"]}
    assert found.table["value"].between(0, 1).all()
    assert found.report().is_file()
    assert any("done in" in line for line in said)
    said.clear()
    again = trocar.run_study(make_study(tmp_path), say=said.append)  # finds everything there
    assert not any("done in" in line for line in said)
    pd.testing.assert_frame_equal(again.table, found.table)


def test_lists_have_the_names_that_configurations_take():
    assert {"dino", "simclr"} <= {*trocar.list_methods()}
    assert {"phase", "segmentation"} <= {*trocar.list_tasks()}
    assert {"cholec80", "folder"} <= {*trocar.list_datasets()}
    names = trocar.list_backbones("*dino*")
    assert names
    assert all("dino" in name for name in names)
