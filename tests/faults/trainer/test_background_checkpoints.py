"""Checkpoints that are written while the next steps run: killed at any moment of it, nothing is lost or mixed up."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fault_record import Injector
from fault_trainer import finish, fork_ranks, fresh_seeds, pretrain, results, saved, write_config

from trocar.core.files import HashedFile
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.trainer import Trainer

EVERY = 2
PROMISE = "the checkpoint before is whole, the same command goes on and ends equal to the bit"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_write_of(step: int) -> bool:
    """Whether this is the thread that writes the checkpoint of a step."""
    return threading.current_thread().name == f"trocar-checkpoint-{step}"


def during_writes(act: Callable[[int], object], step: int) -> None:
    """`act(bytes so far)` after each piece that is written of a checkpoint."""
    fork_ranks()
    write, so_far = HashedFile.write, [0]

    def acting(file: HashedFile, data: bytes) -> int:
        size = write(file, data)
        if in_write_of(step):
            so_far[0] += size
            act(so_far[0])
        return size

    HashedFile.write = acting  # type: ignore[method-assign,assignment]


def die_in_the_writing(step: int, share: float) -> None:
    """SIGKILL when so much of the 3 MB of a checkpoint is written."""
    during_writes(lambda size: die() if size > share * 3e6 else None, step)


def die_at_the_rename(step: int, after: bool) -> None:
    """SIGKILL right before a checkpoint gets its name, or right after."""
    fork_ranks()
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if in_write_of(step) and path.name.startswith(f".step-{step:08d}"):
            if after:
                rename(path, target)
            die()
        return rename(path, target)

    Path.rename = dying  # type: ignore[method-assign]


def die_in_the_next_step(step: int) -> None:
    """The write is held up until the next step has been computed; then SIGKILL, from the training."""
    begun = threading.Event()

    def hold(size: int) -> None:
        begun.set()
        time.sleep(100)

    during_writes(hold, step)
    one_step = Trainer._step

    def dying(trainer: Trainer, batch: Any, progress: Any) -> Any:
        values = one_step(trainer, batch, progress)
        if progress.step == step and trainer.world.is_main:
            assert begun.wait(60)
            die()
        return values

    Trainer._step = dying  # type: ignore[method-assign]


def killed(config: Path, fault: Callable[[], object], ranks: int) -> None:
    run = pretrain(config, fault=fault)
    assert run.end() == (-signal.SIGKILL if ranks == 1 else 128 + signal.SIGKILL), run.said()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("moment", ["in its writing", "before its rename", "after its rename", "in the next step"])
def test_a_kill_while_a_checkpoint_is_written_in_the_background(
    shards: Path,
    undisturbed: Path,
    undisturbed_on_two: Path,
    tmp_path: Path,
    inject: Injector,
    moment: str,
    ranks: int,
) -> None:
    whole = undisturbed if ranks == 1 else undisturbed_on_two
    (seed,) = fresh_seeds(1)
    draw, out = random.Random(seed), tmp_path / "run"
    step = EVERY * draw.randrange(2, 9)
    share = draw.random()
    faults: dict[str, Callable[[], object]] = {
        "in its writing": partial(die_in_the_writing, step, share),
        "before its rename": partial(die_at_the_rename, step, after=False),
        "after its rename": partial(die_at_the_rename, step, after=True),
        "in the next step": partial(die_in_the_next_step, step),
    }
    config = write_config(shards, out, run={"ranks": ranks})
    at = f"step {step}, {moment}, {share:.2f}, {ranks} rank(s)"
    with inject("SIGKILL", "checkpoint in the background", PROMISE, seed=seed, at=at) as injection:
        killed(config, faults[moment], ranks)
        kept = checkpoint.steps(out)[-1]
        assert kept == (step if moment == "after its rename" else step - EVERY)
        injection.compare(saved(whole, kept), saved(out, kept))
        finish(config, fault=fork_ranks)
        assert not list((out / "checkpoints").glob(".*"))
        injection.compare(results(whole), results(out))


def stop_in_the_writing(step: int) -> None:
    """SIGTERM from inside of the first piece of a write, which then takes its time."""
    sent = threading.Event()

    def act(size: int) -> None:
        if not sent.is_set():
            sent.set()
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.002)

    during_writes(act, step)


def test_a_stop_waits_for_the_checkpoint_in_the_background_and_saves_its_own(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    (seed,) = fresh_seeds(1)
    out, step = tmp_path / "run", EVERY * random.Random(seed).randrange(2, 9)
    config = write_config(shards, out)
    promise = "both checkpoints are whole, the same command goes on and ends equal to the bit"
    with inject("SIGTERM", "checkpoint in the background", promise, seed=seed, at=f"step {step}") as injection:
        run = pretrain(config, fault=partial(stop_in_the_writing, step))
        assert run.end() == 128 + signal.SIGTERM, run.said()
        before, last = checkpoint.steps(out)
        assert before == step < last
        for kept in (before, last):
            injection.compare(saved(undisturbed, kept), saved(out, kept))
        finish(config)
        injection.compare(results(undisturbed), results(out))


def interrupt_in_the_writing(step: int) -> None:
    """Ctrl-C from inside of a write that would take minutes, and once more while it is waited for."""
    pieces = [0]

    def act(size: int) -> None:
        pieces[0] += 1
        if pieces[0] in (1, 21):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    during_writes(act, step)


def test_ctrl_c_twice_does_not_wait_for_the_checkpoint_in_the_background(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    (seed,) = fresh_seeds(1)
    out, step = tmp_path / "run", EVERY * random.Random(seed).randrange(2, 9)
    config = write_config(shards, out)
    with inject("SIGINT twice", "checkpoint in the background", PROMISE, seed=seed, at=f"step {step}") as injection:
        run = pretrain(config, fault=partial(interrupt_in_the_writing, step))
        assert run.end() in (128 + signal.SIGINT, -signal.SIGINT), run.said()
        assert "Traceback" not in run.said()
        assert "Fatal" not in run.said()
        assert checkpoint.steps(out)[-1] == step - EVERY
        assert not list((out / "checkpoints").glob(".*"))
        injection.compare(saved(undisturbed, step - EVERY), saved(out, step - EVERY))
        finish(config)
        injection.compare(results(undisturbed), results(out))


def fail_in_the_writing(step: int) -> None:
    """A disk that is full, for this checkpoint."""

    def act(size: int) -> None:
        raise OSError(28, "No space left on device")

    during_writes(act, step)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_in_the_background_ends_the_run_soon(
    shards: Path,
    undisturbed: Path,
    undisturbed_on_two: Path,
    tmp_path: Path,
    inject: Injector,
    ranks: int,
) -> None:
    whole, out = undisturbed if ranks == 1 else undisturbed_on_two, tmp_path / "run"
    (seed,) = fresh_seeds(1)
    step = EVERY * random.Random(seed).randrange(2, 9)
    config = write_config(shards, out, run={"ranks": ranks})
    with inject("full disk", "checkpoint in the background", PROMISE, seed=seed, at=f"step {step}") as injection:
        run = pretrain(config, fault=partial(fail_in_the_writing, step))
        assert run.end() == 1, run.said()
        words = f"cannot write a checkpoint to {out / 'checkpoints'}: No space left on device; the newest complete"
        assert f"{words} checkpoint is step {step - EVERY}." in run.said()
        assert checkpoint.steps(out)[-1] == step - EVERY
        injection.compare(saved(whole, step - EVERY), saved(out, step - EVERY))
        finish(config, fault=fork_ranks)
        injection.compare(results(whole), results(out))


def write_while_a_step_runs() -> None:
    """Each write in the background begins when the next step has been computed."""
    fork_ranks()
    save, one_step = checkpoint.save, Trainer._step
    computed, newest = threading.Condition(), [-1]

    def late(run: Path, step: int, *words: Any) -> Any:
        with computed:
            assert not in_write_of(step) or computed.wait_for(lambda: newest[0] >= step, 60)
        return save(run, step, *words)

    def noted(trainer: Trainer, batch: Any, progress: Any) -> Any:
        values = one_step(trainer, batch, progress)
        with computed:
            newest[0] = progress.step
            computed.notify_all()
        return values

    checkpoint.save = late  # type: ignore[assignment]
    Trainer._step = noted  # type: ignore[method-assign]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_written_after_the_next_step_is_still_that_of_its_own(
    shards: Path, undisturbed: Path, undisturbed_on_two: Path, tmp_path: Path, inject: Injector, ranks: int
) -> None:
    whole, out = undisturbed if ranks == 1 else undisturbed_on_two, tmp_path / "run"
    config = write_config(shards, out, run={"ranks": ranks, "keep_last": 100, "checkpoint_every": 3})
    promise = "each checkpoint is that of its step, the end is equal to the bit"
    with inject("slow storage", "checkpoint in the background", promise, at=f"{ranks} rank(s)") as injection:
        finish(config, fault=write_while_a_step_runs)
        steps = checkpoint.steps(out)
        assert steps == list(range(3, 25, 3))
        for step in steps:
            injection.compare(saved(whole, step), saved(out, step))
        injection.compare(results(whole), results(out))
