"""SIGKILL between a look and the next checkpoint: the same command ends with the undisturbed run's `backbone-best`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from fault_trainer import STEPS, finish, pretrain, results, write_config
from probe_factory import make_probed

from trocar.ssl.engine import checkpoint
from trocar.ssl.run.run_hooks import RunHooks

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def killed_after_the_look(done_at: int) -> None:
    """The process is gone right after the look that follows step `done_at`, before anything is saved."""
    looking = RunHooks.probed

    def look_and_die(hooks: RunHooks, done: int) -> bool:
        ended = looking(hooks, done)
        if done == done_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return ended

    RunHooks.probed = look_and_die  # type: ignore[method-assign]


def kill_after_the_first_best() -> None:
    killed_after_the_look(9)


def kill_at_a_late_look() -> None:
    killed_after_the_look(18)


@pytest.mark.parametrize("fault", [kill_after_the_first_best, kill_at_a_late_look])
def test_a_run_killed_between_a_look_and_its_checkpoint_ends_with_the_same_best(
    shards: Path, tmp_path: Path, fault: object
) -> None:
    make_probed(tmp_path / "labels", seed=3)
    probe = [{"name": "p", "data": str(tmp_path / "labels"), "task": "tools", "every": "3 steps", "frames": 24}]
    runs = {}
    for name in ("undisturbed", "killed"):
        config = write_config(shards, tmp_path / name / "run", run={"checkpoint_every": 5})
        tree = config.read_text() + f"probe: {json.dumps(probe)}\nkeep: best\n"
        config.write_text(tree)
        runs[name] = config
    finish(runs["undisturbed"])
    first = pretrain(runs["killed"], fault=fault)
    assert first.end() == -signal.SIGKILL, first.said()
    assert max(checkpoint.steps(runs["killed"].with_suffix(""))) < STEPS
    finish(runs["killed"])
    ours, theirs = (runs[name].with_suffix("") for name in ("killed", "undisturbed"))
    assert results(ours) == results(theirs)
    for file in ("model.safetensors", "config.json"):
        assert (ours / "backbone-best" / file).read_bytes() == (theirs / "backbone-best" / file).read_bytes()
