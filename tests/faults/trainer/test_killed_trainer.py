"""SIGKILL and SIGTERM of the trainer at random moments: the same command ends as if nothing had been."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_record import Injection, Injector
from fault_trainer import (
    Started,
    finish,
    fresh_seeds,
    newest_step,
    next_run,
    pretrain,
    results,
    saved,
    wait_for_step,
)

from trocar.runs.run_folder import attempts
from trocar.ssl.engine import checkpoint

KILLS = 6
EVERY = 2


def moment(seed: int) -> tuple[int, float]:
    """Steps to wait for in this attempt (0: none, so that setting up is hit too), and seconds after that.

    A step with its checkpoint takes some hundredths of a second: writing is hit about as often as computing.
    """
    draw = random.Random(seed)
    return draw.choice([0, 1, 1, 2, 3]), draw.uniform(0, 0.15)


def started(config: Path, out: Path, steps: int, seconds: float) -> Started:
    """The command, so far into its work."""
    resumed_at, before = max(checkpoint.steps(out), default=0), max(attempts(out), default=0)
    run = pretrain(config)
    if steps:
        wait_for_step(run, out, resumed_at + steps - 1, before)
    time.sleep(seconds)
    return run


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_trainer_killed_again_and_again_ends_as_an_undisturbed_one(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector, name: str
) -> None:
    promise = "the same command goes on and ends equal to the bit"
    with ExitStack() as until_the_end:
        killed: dict[Path, list[Injection]] = {}
        for seed in fresh_seeds(KILLS):
            config = next_run(tmp_path, shards)
            out = config.with_suffix("")
            steps, seconds = moment(seed)
            at = f"{steps} steps and {seconds:.2f} s"
            injection = until_the_end.enter_context(inject(name, "trainer", promise, seed=seed, at=at))
            killed.setdefault(config, []).append(injection)
            run = started(config, out, steps, seconds)
            if name == "SIGKILL":
                run.kill_all()
            else:
                run.send(signal.SIGTERM)
                assert run.end() in (143, -signal.SIGTERM), run.said()  # the second: before it had begun
            kept = max(checkpoint.steps(out), default=0)
            if name == "SIGKILL":
                # The newest one may still be being written when the next is due, never when that has begun.
                assert kept >= newest_step(out) + 1 - 2 * EVERY
            elif newest_step(out) >= 0:
                assert kept == newest_step(out) + 1
            if kept:
                injection.compare(saved(undisturbed, kept), saved(out, kept))
        for config, injections in killed.items():
            finish(config)
            for injection in injections:
                injection.compare(results(undisturbed), results(config.with_suffix("")))
