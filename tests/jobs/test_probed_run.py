"""A run that is scored while it trains: the same weights, a curve from the first ones on, and the best of them."""

from __future__ import annotations

import json
import signal

import pandas as pd
import pytest
import torch
from data_factory import make_catalog
from probe_factory import make_probed, make_probed_masks, probed_run
from run_factory import logged, same

from trocar.errors import ConfigError, StoppedError
from trocar.jobs.pretrain import describe, pretrain
from trocar.leakage.judge import verdict_of
from trocar.leakage.verdict import Verdict
from trocar.runs.run_folder import read_metrics
from trocar.ssl.engine import checkpoint
from trocar.ssl.run.run_hooks import RunHooks

SEED = 3
"""Of the labels of tools, with which the best look is the one after step 6."""


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    make_catalog(folder / "shards", 2, 8)
    make_probed(folder / "labels", seed=SEED)
    make_probed_masks(folder / "masks")
    return folder


@pytest.fixture(scope="module")
def probes(place):
    labels, masks = str(place / "labels"), str(place / "masks")
    return [
        {"name": "knn", "data": labels, "task": "tools", "protocol": "knn", "frames": 24},
        {"name": "linear", "data": labels, "task": "phase", "protocol": "linear", "frames": 24, "every": "5 steps"},
        {"name": "dense", "data": masks, "task": "segmentation", "protocol": "dense", "frames": 12, "every": "50 %"},
    ]


@pytest.fixture(scope="module")
def run(place, probes):
    """The undisturbed run with all three protocols, and what it said."""
    said: list[str] = []
    config = probed_run(place / "shards", place / "run", probe=probes, keep="best", keep_by="knn")
    pretrain(config, said.append)
    return config.run.out, said


def test_weights_and_losses_are_bit_equal_with_and_without_probes(place, run):
    out, _ = run
    pretrain(probed_run(place / "shards", place / "plain"), quiet)
    ours, theirs = (checkpoint.load(checkpoint.path_of(folder, 12)).state for folder in (out, place / "plain"))
    assert same(ours["method"], theirs["method"])
    assert same(ours["optimizer"], theirs["optimizer"])
    weights = [(folder / "backbone" / "model.safetensors").read_bytes() for folder in (out, place / "plain")]
    assert weights[0] == weights[1]
    rows = [{k: v for k, v in row.items() if not k.startswith("probe/")} for row in logged(out)]
    assert rows == logged(place / "plain")


def test_the_first_weights_begin_the_curve_and_every_look_is_logged(run):
    out, said = run
    rows = read_metrics(out)
    looks = {name: [row["step"] for row in rows if f"probe/{name}" in row] for name in ("knn", "linear", "dense")}
    # Under the step that has ended: every 2, every 5 and every 6 steps, after the last, and the first weights.
    assert looks == {"knn": [0, 1, 3, 5, 7, 9, 11], "linear": [0, 4, 9, 11], "dense": [0, 5, 11]}
    later = [row for row in rows if "probe/knn" in row][1:]
    first = rows[0]["probe/knn"]
    for row in later:
        gain = row["probe/knn/gain"]
        assert gain == row["probe/knn"] - first
        assert row["probe/knn/gain_low"] <= row["probe/knn/gain_high"]
    assert all(0 <= row["probe/dense"] <= 1 for row in rows if "probe/dense" in row)
    assert any(line.startswith("probes took ") and line.endswith("% of the time") for line in said)


def test_the_best_look_is_published_beside_the_last_and_marked(run):
    out, said = run
    curve = checkpoint.load(checkpoint.path_of(out, 12)).state["probe"]["knn"]["points"]
    done, value = max(((p[0], p[1]) for p in curve), key=lambda point: (point[1], -point[0]))
    about = json.loads((out / "backbone-best" / "config.json").read_text())["trocar"]
    assert (about["step"], about["chosen"]["value"]) == (done, value)
    assert about["chosen"]["by"] == "probe knn"
    assert about["chosen"]["note"].startswith("chosen by it")
    assert "chosen by it" in (out / "backbone-best" / "README.md").read_text()
    assert "chosen" not in json.loads((out / "backbone" / "config.json").read_text())["trocar"]
    assert any(line.startswith(f"best after {done} steps: {value:.3f} of probe knn, chosen by it") for line in said)


def test_the_verdict_says_that_labels_chose_the_best_and_only_watched_the_last(place, run):
    from trocar.downstream.datasets import open_dataset

    out, _ = run
    data = open_dataset(place / "labels")
    best = verdict_of(out / "backbone-best", data, ["case1"])
    assert best.verdict is Verdict.LABELS_SEEN
    assert "chose these weights" in best.findings[0].why
    assert verdict_of(out / "backbone-best", data, ["case2"]).verdict is not Verdict.LABELS_SEEN  # a test case
    assert verdict_of(out / "backbone", data, ["case1"]).verdict is Verdict.CLEAN


def test_validation_cases_are_held_out_of_the_pool_and_training_cases_stay(place, probes, tmp_path):
    make_probed(tmp_path / "phantom")  # the pool's source, with cases case00 and case01
    table = pd.read_csv(tmp_path / "phantom" / "frames.csv")
    table["case"] = table["case"].str.replace("case", "case0")
    table.to_csv(tmp_path / "phantom" / "frames.csv", index=False)
    probe = [{**probes[0], "data": str(tmp_path / "phantom")}]
    lines = describe(probed_run(place / "shards", tmp_path / "run", probe=probe), quiet)
    assert any("leak guard: 1 case(s) left out before sampling" in line for line in lines)
    assert any("phantom/case01 is phantom/case01" in line for line in lines)
    assert any(line.startswith("data       8 frames of 1 cases") for line in lines)


@pytest.mark.parametrize("stop_after", [6, 7])
def test_a_run_stopped_between_a_look_and_the_next_checkpoint_ends_with_the_same_best(
    place, probes, run, tmp_path, monkeypatch, stop_after
):
    """It dies without saving, as by a kill: the checkpoint before is of step 5, and the look after step 6 is lost."""
    undisturbed, _ = run
    about = json.loads((undisturbed / "backbone-best" / "config.json").read_text())["trocar"]
    assert about["step"] == 6  # neither the checkpoint's nor the last: what is lost is the best
    config = probed_run(place / "shards", tmp_path / "run", probe=probes, keep="best", keep_by="knn")
    saving = RunHooks.save

    def die(hooks: RunHooks, done: int) -> None:
        saving(hooks, done)
        if done == stop_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunHooks, "save", die)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, quiet)
    assert checkpoint.steps(config.run.out) == [5]
    pretrain(config, quiet)
    for name in ("backbone", "backbone-best"):
        for file in ("model.safetensors", "config.json"):
            assert (config.run.out / name / file).read_bytes() == (undisturbed / name / file).read_bytes()
    ours, theirs = (checkpoint.load(checkpoint.path_of(folder, 12)).state for folder in (config.run.out, undisturbed))
    assert same(ours, theirs)
    assert logged(config.run.out) == logged(undisturbed)


def test_a_clean_stop_at_a_look_does_not_look_again(place, probes, run, tmp_path):
    config = probed_run(place / "shards", tmp_path / "run", probe=probes, keep="best", keep_by="knn")
    asked = iter([0, 0, 0, signal.SIGUSR1, signal.SIGUSR1])
    with pytest.raises(StoppedError):
        pretrain(config, quiet, stop=lambda: next(asked, 0))
    assert checkpoint.steps(config.run.out) == [4]
    pretrain(config, quiet)
    assert logged(config.run.out) == logged(run[0])


def test_patience_ends_the_run_at_a_look_and_a_finished_run_stays_finished(place, probes, tmp_path):
    probe = [{**probes[1], "every": "2 steps"}]  # phases told by brightness: perfect at once, so never better
    config = probed_run(place / "shards", tmp_path / "run", probe=probe, keep="best", patience=2)
    said: list[str] = []
    pretrain(config, said.append)
    record = json.loads((config.run.out / "finished.json").read_text())
    points = checkpoint.load(checkpoint.path_of(config.run.out, record["step"])).state["probe"]["linear"]["points"]
    best = max(point[1] for point in points)
    assert [point[1] for point in points].index(best) == len(points) - 3
    assert record["step"] == points[-1][0] < 12
    assert any(line.startswith(f"ended after {record['step']} of 12 steps, by patience") for line in said)
    assert record["identity"]["recipe"]["patience"]["looks"] == 2
    exposure = json.loads((config.run.out / "backbone" / "config.json").read_text())["trocar"]["exposure"]
    assert [part["role"] for part in exposure if part["labels"]] == ["probe"]
    before = torch.load(checkpoint.path_of(config.run.out, record["step"]) / "state.pt", weights_only=True)
    (config.run.out / "finished.json").unlink()  # as if it had died before it said so
    pretrain(config, quiet)
    assert json.loads((config.run.out / "finished.json").read_text())["step"] == record["step"]
    assert same(before, checkpoint.load(checkpoint.path_of(config.run.out, record["step"])).state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "nowhere"}, "probe: no data folder"),
        ({"task": "fase"}, "did you mean 'phase'"),
        ({"task": "cvs"}, "has no labels for the task 'cvs'"),
        ({"protocol": "dense"}, "masks are for dense"),
        ({"split": "val"}, "split"),
    ],
)
def test_what_cannot_be_scored_is_told_before_the_training(place, probes, tmp_path, change, words):
    config = probed_run(place / "shards", tmp_path / "run", probe=[{**probes[1], "name": "p", **change}])
    with pytest.raises(ConfigError, match=words):
        pretrain(config, quiet)
    assert not (tmp_path / "run" / "metrics").exists()


def test_data_without_validation_cases_are_refused(place, probes, tmp_path):
    from downstream_factory import make_folder

    make_folder(tmp_path / "whole", cases=2, frames=2)
    config = probed_run(place / "shards", tmp_path / "run", probe=[{**probes[1], "data": str(tmp_path / "whole")}])
    with pytest.raises(ConfigError, match="has no validation cases to score"):
        describe(config, quiet)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"keep": "best", "keep_by": None}, "keep_by, the name of the probe that chooses"),
        ({"keep": "best", "keep_by": "kn"}, "no probe is called 'kn'"),
        ({"patience": 3}, "patience is of use with keep: best alone"),
    ],
)
def test_a_choice_without_a_chooser_is_refused(place, probes, tmp_path, sections, words):
    with pytest.raises(ConfigError, match=words):
        probed_run(place / "shards", tmp_path / "run", probe=probes, **sections)


def test_a_dry_run_tells_probes_frames_cadence_and_share(place, probes, tmp_path):
    lines = describe(probed_run(place / "shards", tmp_path / "run", probe=probes, keep="best", keep_by="knn"), quiet)
    told = [line for line in lines if line.startswith("probe ")]
    assert len(told) == 3
    assert "12 frames of 3 training case(s), scored on 12 of 3 validation case(s); every 2 steps, 7 looks" in told[0]
    assert told[0].endswith("% of the time, chooses")
    assert not (tmp_path / "run").exists()
