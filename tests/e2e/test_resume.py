"""N + N steps equal 2 N steps, in every tensor and every logged number, however the run was interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from data_factory import make_catalog
from run_factory import assert_identical, small_run
from store_factory import s3_store

from trocar.runs.run_folder import read_metrics
from trocar.ssl.engine import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.faults]

STEPS = 12
RANKS = [1, 2, 4]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_catalog(folder, 4, 30, sources=("a", "b"))
    return folder


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    """The reference run of 2 N steps, once per number of ranks."""
    runs: dict[int, Path] = {}

    def get(ranks: int) -> Path:
        if ranks not in runs:
            out = tmp_path_factory.mktemp(f"reference-{ranks}") / "run"
            assert train(shards, out, ranks) == 0
            runs[ranks] = out
        return runs[ranks]

    return get


def command(shards: Path | str, out: Path, ranks: int, *overrides: str) -> list[str]:
    config = small_run(
        shards,
        out,
        # with stochastic depth, so that noise inside the model is part of what must come back
        backbone={"name": "test_convnext", "drop_path": 0.2},
        method={
            "name": "dino",
            "views": {
                "global": {"count": 2, "size": 32, "scale": [0.4, 1.0], "blur": [1.0, 0.1], "solarize": [0.0, 0.2]},
                "local": {"count": 2, "size": 32, "scale": [0.05, 0.4]},
            },
            "head": {"prototypes": 32, "hidden": 32, "bottleneck": 16},
            "freeze_last_layer": "3 steps",
        },
        optim={"lr": 0.02, "warmup": "2 steps"},
        train={"batch": 8, "steps": STEPS},
        run={"ranks": ranks, "workers": 1, "checkpoint_every": 3},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "trocar", "pretrain", str(path), *overrides]


def train(shards: Path | str, out: Path, ranks: int, *overrides: str) -> int:
    return subprocess.run(command(shards, out, ranks, *overrides), timeout=300, check=False).returncode


def interrupt(shards: Path | str, out: Path, ranks: int, number: int, at_step: int) -> int:
    """Start a run, send `number` to its whole process tree once `at_step` is logged, return the exit code."""
    process = subprocess.Popen(command(shards, out, ranks), start_new_session=True)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if out.is_dir() and any(row["step"] >= at_step for row in read_metrics(out)):
            kill_tree(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
            break
        time.sleep(0.01)
    return process.wait(timeout=240)


def kill_tree(pid: int, number: int) -> None:
    """A machine that goes away: all processes of the run at once."""
    for child in [*descendants(pid), pid]:
        try:
            os.kill(child, number)
        except ProcessLookupError:
            continue


def descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.mark.parametrize("ranks", RANKS)
def test_a_clean_stop_resumes_bit_for_bit(shards, undisturbed, tmp_path, ranks):
    out = tmp_path / "run"
    assert interrupt(shards, out, ranks, signal.SIGINT, at_step=4) == 130
    assert 4 < checkpoint.steps(out)[-1] < STEPS
    assert train(shards, out, ranks) == 0
    assert_identical(out, undisturbed(ranks), STEPS, resumed_after=3)


@pytest.mark.parametrize("ranks", [2, 4])  # one: tests/faults/trainer, many times over
def test_sigterm_at_a_random_step_resumes_bit_for_bit(shards, undisturbed, tmp_path, ranks):
    step = random.SystemRandom().randrange(2, STEPS - 3)
    print(f"SIGTERM after step {step}")
    out = tmp_path / "run"
    assert interrupt(shards, out, ranks, signal.SIGTERM, step) == 143
    assert train(shards, out, ranks) == 0
    assert_identical(out, undisturbed(ranks), STEPS, resumed_after=3)


@pytest.mark.parametrize("ranks", [2, 4])
def test_sigkill_at_a_random_step_resumes_bit_for_bit(shards, undisturbed, tmp_path, ranks):
    step = random.SystemRandom().randrange(6, STEPS - 2)  # after the second was due: the first is there by then
    print(f"SIGKILL after step {step}")
    out = tmp_path / "run"
    assert interrupt(shards, out, ranks, signal.SIGKILL, step) == -signal.SIGKILL
    assert train(shards, out, ranks) == 0
    assert_identical(out, undisturbed(ranks), STEPS, resumed_after=3)


def test_a_run_killed_on_shards_in_an_object_store_ends_in_the_bits_of_local_shards(
    shards, undisturbed, tmp_path, monkeypatch
):
    def one_in_fifty(number: int, path: str) -> str:
        return "503" if number % 50 == 25 else ""

    out = tmp_path / "run"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_store(shards, one_in_fifty) as (address, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert interrupt(address, out, 1, signal.SIGKILL, at_step=7) == -signal.SIGKILL
        assert train(address, out, 1, "data.stage_to=" + str(tmp_path / "disk")) == 0  # the rest from a copy
        assert train(address, tmp_path / "whole" / "run", 1) == 0
    assert_identical(out, undisturbed(1), STEPS, resumed_after=3)
    assert_identical(tmp_path / "whole" / "run", undisturbed(1), STEPS, resumed_after=0)
    assert json.loads((out / "leaks.json").read_text())["exposure"][0]["catalog"] == address


def test_a_run_resumed_on_more_ranks_sees_the_same_data(shards, undisturbed, tmp_path, capfd):
    out = tmp_path / "run"
    assert interrupt(shards, out, 1, signal.SIGTERM, at_step=4) == 143
    assert train(shards, out, 2, "run.ranks=2") == 0
    assert "ranks differs from the last attempt: 1 -> 2" in capfd.readouterr().err
    ours, theirs = (read_metrics(folder) for folder in (out, undisturbed(1)))
    # the same frames and boxes give the same loss up to the order of summation
    assert [row["step"] for row in ours] == list(range(STEPS))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)


def test_a_finished_run_returns_at_once(shards, undisturbed, capfd):
    out = undisturbed(1)
    before = (out / "finished.json").stat().st_mtime_ns
    assert train(shards, out, 1) == 0
    assert "is finished" in capfd.readouterr().err
    assert (out / "finished.json").stat().st_mtime_ns == before
