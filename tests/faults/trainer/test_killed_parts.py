"""One process of several gets a signal, or meets an error of its own: nothing hangs, and the same command goes on."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_record import Injection, Injector
from fault_trainer import (
    Started,
    finish,
    fork_ranks,
    fresh_seeds,
    newest_step,
    next_run,
    pretrain,
    results,
    saved,
    wait_for_step,
    write_config,
)

from trocar.runs.run_folder import attempts
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.trainer import Trainer

KILLS = 3


def signal_a_child(config: Path, injection: Injection, number: int, **options: Any) -> tuple[Started, int]:
    """The command; after some steps of its work one of its processes gets a signal. Returns which in order of their
    start.

    The steps are few enough that what the others have made in advance isn't all that is needed.
    """
    draw, out = random.Random(injection.seed), config.with_suffix("")
    steps, seconds, before = draw.randrange(1, 4), draw.uniform(0, 0.1), max(attempts(out), default=0)
    resumed_at = max(checkpoint.steps(out), default=0)
    run = pretrain(config, **options)
    wait_for_step(run, out, resumed_at + steps - 1, before)
    time.sleep(seconds)
    children = sorted(psutil.Process(run.pid).children(), key=lambda child: child.pid)
    chosen = draw.randrange(len(children))
    os.kill(children[chosen].pid, number)
    injection.at = f"{steps} steps and {seconds:.2f} s"
    return run, chosen


def test_a_killed_loader_worker_is_said_and_the_same_command_goes_on(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    promise = "ends with a message; the same command goes on and ends equal to the bit"
    with ExitStack() as until_the_end:
        killed: dict[Path, list[Injection]] = {}
        for seed in fresh_seeds(KILLS):
            config = next_run(tmp_path, shards, run={"workers": 2})
            injection = until_the_end.enter_context(inject("SIGKILL", "loader worker", promise, seed=seed))
            killed.setdefault(config, []).append(injection)
            run, _ = signal_a_child(config, injection, signal.SIGKILL)
            assert run.end() == 1
            assert "a loader worker ended before its time" in run.said()
            assert "Traceback" not in run.said()
        for config, injections in killed.items():
            finish(config)
            for injection in injections:
                injection.compare(results(undisturbed), results(config.with_suffix("")))


def test_a_loader_worker_that_hangs_is_said_and_the_same_command_goes_on(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    promise = "ends with a message after run.data_timeout_s; the same command goes on and ends equal to the bit"
    (seed,) = fresh_seeds(1)
    config = next_run(tmp_path, shards, run={"workers": 2, "data_timeout_s": 3})
    with inject("SIGSTOP", "loader worker", promise, seed=seed) as injection:
        run, _ = signal_a_child(config, injection, signal.SIGSTOP)
        assert run.end() == 1
        assert "(run.data_timeout_s = 3)" in run.said()
        assert "Traceback" not in run.said()
        finish(config)
        injection.compare(results(undisturbed), results(config.with_suffix("")))


def test_of_two_ranks_one_is_killed_the_other_ends_and_the_same_command_goes_on(
    shards: Path, undisturbed_on_two: Path, tmp_path: Path, inject: Injector
) -> None:
    promise = "the other ends too; the same command goes on and ends equal to the bit"
    with ExitStack() as until_the_end:
        killed: dict[Path, list[Injection]] = {}
        for seed in fresh_seeds(KILLS):
            config = next_run(tmp_path, shards, run={"ranks": 2})
            injection = until_the_end.enter_context(inject("SIGKILL", "one rank of two", promise, seed=seed))
            killed.setdefault(config, []).append(injection)
            run, rank = signal_a_child(config, injection, signal.SIGKILL, fault=fork_ranks)
            assert run.end() == 128 + signal.SIGKILL
            assert f"rank {rank} of 2 was killed by signal 9" in run.said()
        for config, injections in killed.items():
            finish(config, fault=fork_ranks)
            for injection in injections:
                injection.compare(results(undisturbed_on_two), results(config.with_suffix("")))


def test_a_rank_with_a_part_of_the_weights_is_killed_and_the_same_command_goes_on(
    shards: Path, tmp_path: Path, inject: Injector
) -> None:
    promise = "the other ends too; the same command goes on and ends equal to the bit"
    (seed,) = fresh_seeds(1)
    parts = {"run": {"ranks": 2}, "train": {"shard": "full"}}
    alone = write_config(shards, tmp_path / "undisturbed" / "run", **parts)
    finish(alone, fault=fork_ranks)
    config = write_config(shards, tmp_path / "run", **parts)
    with inject("SIGKILL", "one rank of two, weights in parts", promise, seed=seed) as injection:
        run, rank = signal_a_child(config, injection, signal.SIGKILL, fault=fork_ranks)
        assert run.end() == 128 + signal.SIGKILL
        assert f"rank {rank} of 2 was killed by signal 9" in run.said()
        finish(config, fault=fork_ranks)
        injection.compare(results(alone.with_suffix("")), results(config.with_suffix("")))


def test_a_loader_worker_leaves_sigterm_to_the_trainer(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    for seed in fresh_seeds(KILLS):
        config = write_config(shards, tmp_path / f"{seed}" / "run", run={"workers": 2})
        with inject("SIGTERM", "loader worker", "the run goes on and ends equal to the bit", seed=seed) as injection:
            run, _ = signal_a_child(config, injection, signal.SIGTERM)
            assert run.end() == 0, run.said()
            injection.compare(results(undisturbed), results(config.with_suffix("")))


def test_of_two_ranks_one_gets_sigterm_both_save_the_same_step(
    shards: Path, undisturbed_on_two: Path, tmp_path: Path, inject: Injector
) -> None:
    promise = "both save after the same step; the same command goes on and ends equal to the bit"
    for seed in fresh_seeds(KILLS):
        config = write_config(shards, tmp_path / f"{seed}" / "run", run={"ranks": 2})
        out = config.with_suffix("")
        with inject("SIGTERM", "one rank of two", promise, seed=seed) as injection:
            run, _ = signal_a_child(config, injection, signal.SIGTERM, fault=fork_ranks)
            assert run.end() == 128 + signal.SIGTERM, run.said()
            kept = checkpoint.steps(out)[-1]
            assert kept == newest_step(out) + 1
            injection.compare(saved(undisturbed_on_two, kept), saved(out, kept))
            finish(config, fault=fork_ranks)
            injection.compare(results(undisturbed_on_two), results(out))


def fail_in_step_five() -> None:
    """An error that nobody has thought of."""
    backward = Trainer._backward

    def failing(trainer: Trainer, batch: Any, progress: Any) -> Any:
        if progress.step == 5:
            raise RuntimeError("nobody has thought of this")
        return backward(trainer, batch, progress)

    Trainer._backward = failing  # type: ignore[method-assign]


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_nobody_thought_of_ends_the_run_with_its_traceback(
    shards: Path, undisturbed: Path, undisturbed_on_two: Path, tmp_path: Path, inject: Injector, ranks: int
) -> None:
    out = tmp_path / "run"
    config = write_config(shards, out, run={"ranks": ranks})
    promise = "ends with its traceback; the same command goes on and ends equal to the bit"
    with inject("unexpected error", "trainer", promise, at=f"step 5, {ranks} ranks") as injection:
        run = pretrain(config, fault=fork_ranks_and_fail)
        assert run.end() == 1
        assert "RuntimeError: nobody has thought of this" in run.said()
        assert checkpoint.steps(out)[-1] == 4
        finish(config, fault=fork_ranks)
        injection.compare(results(undisturbed if ranks == 1 else undisturbed_on_two), results(out))


def fork_ranks_and_fail() -> None:
    fork_ranks()
    fail_in_step_five()
