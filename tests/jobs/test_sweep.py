"""Short arms compared by a probe: one table, paired intervals, and the chosen configuration."""

from __future__ import annotations

import json

import pytest
import yaml
from data_factory import make_catalog
from probe_factory import make_probed, probed_run

import trocar
from trocar.cli.main import main
from trocar.core.config import load
from trocar.errors import ConfigError
from trocar.jobs.sweep import sweep
from trocar.ssl.run.pretrain_config import PretrainConfig


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    make_catalog(folder / "shards", 2, 8)
    make_probed(folder / "labels", seed=3)
    probe = {"name": "tools", "data": str(folder / "labels"), "task": "tools", "protocol": "knn", "frames": 24}
    config = probed_run(folder / "shards", folder / "run", probe=[probe])
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    return path


def test_the_command_runs_arms_prints_one_table_and_writes_what_it_chose(file, capsys):
    words = ["pretrain", str(file), "--sweep", "optim.lr=0.001,5e-2,0.3", "train.steps=4"]
    assert main(words) == 0
    out = file.parent / "run" / "sweep"
    table = capsys.readouterr().out
    result = json.loads((out / "sweep.json").read_text())
    arms = {arm["settings"]["optim.lr"]: arm for arm in result["arms"]}
    assert list(arms) == ["0.001", "5e-2", "0.3"]
    best = max(result["arms"], key=lambda arm: arm["value"])
    assert result["chosen"] == best["settings"]
    for arm in result["arms"]:
        difference, low, high = arm["to_chosen"]
        assert difference == arm["value"] - best["value"]
        assert low <= high
        assert f"{arm['value']:.3f}" in table
    assert best["to_chosen"] == [0, 0, 0]
    text = (out / "chosen.yaml").read_text()
    assert text.startswith("# ")
    assert "was chosen on the validation cases of probe tools" in text.splitlines()[0]
    chosen = load(PretrainConfig, out / "chosen.yaml")
    assert chosen.optim.lr == float(best["settings"]["optim.lr"])
    assert chosen.train.steps == 12  # the file's length, not that of the arms
    assert chosen.run.out == file.parent / "run"
    assert main(words) == 0  # all arms are finished: the same table at once
    assert json.loads((out / "sweep.json").read_text()) == result


def test_an_arm_that_diverges_is_a_line_and_not_the_end(file, tmp_path):
    def configured(changes):
        words = [f"{key}={value}" for key, value in changes.items()]
        return load(
            PretrainConfig, file, ["train.steps=4", f"run.out={tmp_path / 'run'}", "train.max_skipped=0", *words]
        )

    result = sweep(configured, {"optim.lr": ["0.001", "1e30"]}, lambda line: None)
    good, bad = result.arms
    assert result.best is good
    assert (good.failed, bad.draws) == ("", None)
    assert bad.failed


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("optim.lr", "expected key=a,b"),
        ("optim.lr=1,1", "different values"),
        ("probe=1,2", "arms are compared by one probe"),
        ("optim.rate=1,2", "optim.rate"),
    ],
)
def test_what_cannot_be_swept_is_told_before_any_arm_runs(file, capsys, tmp_path, word, words):
    assert main(["pretrain", str(file), "--sweep", word, f"run.out={tmp_path / 'run'}"]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_one_probe_there_is_nothing_to_choose_by(file):
    def configured(changes):
        return load(PretrainConfig, file, ["probe=[]"])

    with pytest.raises(ConfigError, match="a sweep is judged by one probe, and there are: none"):
        sweep(configured, {"optim.lr": ["1", "2"]}, lambda line: None)


def test_python_sweeps_as_the_command_does(file, tmp_path):
    result = trocar.sweep(file, {"optim.lr": [0.001, 0.05]}, out=tmp_path / "run", train={"steps": 4})
    assert [arm.settings for arm in result.arms] == [{"optim.lr": 0.001}, {"optim.lr": 0.05}]
    assert result.chosen == tmp_path / "run" / "sweep" / "chosen.yaml"
    assert load(PretrainConfig, result.chosen).optim.lr == result.best.settings["optim.lr"]
