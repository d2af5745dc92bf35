"""What holds for every method there is: it resumes to the bit, two ranks are one, a checkpoint holds all its state.

All runs go the way that the command goes, once on one rank and once on two.
"""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from data_factory import make_catalog
from ranks_factory import meet
from run_factory import assert_identical, logged, same
from state_search import changed_outside, snapshot
from tiny_methods import FRAMES, METHODS, STEPS, Tiny, Tree, make_models, merged, noisy_run, tiny_run
from torch import nn

from trocar.core.config import validate
from trocar.data.loading.batch import Batch
from trocar.errors import StoppedError
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.method import METHODS as REGISTERED
from trocar.ssl.engine.method import Progress, Views
from trocar.ssl.engine.optimizer import build_optimizer
from trocar.ssl.engine.trainer import Stop, never
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.run_hooks import RunHooks

pytestmark = pytest.mark.slow

HALF = STEPS // 2
PER_RANK = {"feature_std", "rankme", "prototypes_used"}  # of each rank's samples by themselves, then averaged
# Not Adam: it divides by the gradient's size, and a gradient that should be 0 is nothing but rounding. Clipped, or the
# first steps of DINO with fresh weights are so large that all features are the same after them.
SGD = {"name": "sgd", "lr": 0.05, "scaling": "none", "weight_decay": 1e-4, "warmup": "0 steps"}
CLIPPED = {"clip": 1.0, "clip_by": "global"}
# About ten times what was seen. Batch norm divides by the spread of a few samples, and so multiplies rounding.
CLOSE = {"layer_norm": {"rtol": 1e-5, "atol": 3e-6}, "batch_norm": {"rtol": 2e-4, "atol": 3e-4}}


def resumable(name: str, data: Path, out: Path, ranks: int) -> Tree:
    train, optim = {"accumulate": METHODS[name].accumulate}, {"lr": 0.02, "warmup": "2 steps"}
    return noisy_run(name, data, out, ranks, train=train, optim=optim)


def comparable(name: str, norm: str, data: Path, out: Path, ranks: int) -> Tree:
    """Without anything that depends on the rank: no stochastic depth, no batch norm or one over all ranks."""
    case = METHODS[name]
    batch_norm = norm == "batch_norm"
    return tiny_run(
        name,
        data,
        out,
        ranks,
        case.method if batch_norm else merged(case.method, case.plain),
        backbone={"name": case.with_batch_norm if batch_norm else case.backbone},
        train={"sync_batch_norm": batch_norm},
        optim=SGD | CLIPPED,
    )


def kinds(case: Tiny) -> list[str]:
    return ["layer_norm"] + (["batch_norm"] if case.with_batch_norm else [])


COMPARED = [(name, kind) for name, case in METHODS.items() for kind in kinds(case)]


def prepare(folder: Path) -> None:
    make_catalog(folder / "data", 4, FRAMES // 4, sources=("a", "b"))
    make_models(folder / "data")


def on_two_ranks(rank: int, folder: Path) -> None:
    every_run(World(rank, 2, rank), folder)


def alone(folder: Path) -> None:
    every_run(World(), folder)


def every_run(world: World, folder: Path) -> None:
    data, own = folder / "data", folder / str(world.size)
    finish = RunHooks.finish

    def note_state_and_finish(hooks: RunHooks) -> None:
        torch.save(hooks.method.state_dict(), hooks.run.out.with_suffix(f".rank{world.rank}"))
        finish(hooks)

    with patch.object(RunHooks, "finish", note_state_and_finish):
        _every_run(world, data, own)


def _every_run(world: World, data: Path, own: Path) -> None:
    for name in METHODS:
        (own / name).mkdir(parents=True, exist_ok=True)
        pretrain(resumable(name, data, own / name / "undisturbed", world.size), world)
        again = resumable(name, data, own / name / "stopped", world.size)
        stop_halfway(again, world)
        pretrain(again, world, "again")
    for name, kind in COMPARED:
        pretrain(comparable(name, kind, data, own / name / kind, world.size), world)


def pretrain(tree: Tree, world: World, attempt: str = "first", stop: Stop = never) -> None:
    out = Path(tree["run"]["out"])
    meet(out.with_suffix(f".{attempt}"))
    try:
        run(Pretraining(validate(PretrainConfig, tree, "test"), world, lambda line: None, RunGuard()), stop=stop)
    except Exception as error:
        raise RuntimeError(f"{out} on rank {world.rank} of {world.size}") from error


def stop_halfway(tree: Tree, world: World) -> None:
    """The last rank is asked to stop before step HALF, and all stop after it."""
    stepped = RunHooks.stepped
    received: list[int] = []

    def then_ask_to_stop(hooks: RunHooks, batch: Batch, done: int) -> None:
        stepped(hooks, batch, done)
        if done == HALF - 1 and world.rank == world.size - 1:
            received.append(signal.SIGTERM)

    with patch.object(RunHooks, "stepped", then_ask_to_stop), pytest.raises(StoppedError):
        pretrain(tree, world, stop=lambda: max(received, default=0))


def test_every_method_has_a_tiny_configuration():
    assert set(REGISTERED.names()) == METHODS.keys(), (
        "add the new method to tests/support/tiny_methods.py; then it is tested"
    )


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_ends_in_the_bits_of_one_that_was_not(launched, name, ranks):
    folder = launched / __name__ / str(ranks) / name
    assert_identical(folder / "stopped", folder / "undisturbed", STEPS, resumed_after=HALF)


@pytest.mark.parametrize("name", METHODS)
def test_both_ranks_hold_the_same_bits(launched, name):
    """A checkpoint is that of rank 0, and resumes all."""
    out = launched / __name__ / "2" / name / "undisturbed"
    ours, theirs = (torch.load(out.with_suffix(f".rank{rank}")) for rank in range(2))
    assert [key for key in theirs if not same(ours[key], theirs[key])] == []


@pytest.mark.parametrize(("name", "kind"), COMPARED)
def test_two_ranks_are_one_with_the_same_global_batch(launched, name, kind):
    two, one = (launched / __name__ / ranks / name / kind for ranks in "21")
    close = CLOSE[kind]
    for ours, theirs in zip(*(map(of_all_ranks, logged(out)) for out in (two, one)), strict=True):
        assert ours == pytest.approx(theirs, rel=close["rtol"], abs=close["atol"])
    states = [checkpoint.load(checkpoint.path_of(out, STEPS)).state["method"] for out in (two, one)]
    torch.testing.assert_close(*states, **close)


def of_all_ranks(row: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key not in PER_RANK}


@pytest.mark.parametrize("name", METHODS)
def test_all_that_a_step_changes_is_in_the_checkpoint(name, tmp_path):
    prepare(tmp_path)
    tree = resumable(name, tmp_path / "data", tmp_path / "run", 1)
    setup = Pretraining(validate(PretrainConfig, tree, "test"), World(), say=print, guard=RunGuard())
    method = setup.placed().train()
    optimizer = build_optimizer(method, setup.config.optim)
    before: dict[str, Any] = {}
    for batch in setup.loader().iterate(0, STEPS):
        progress = Progress(batch.step, setup.total, setup.epoch_steps)
        method.zero_grad()
        method.loss(Views.of(batch), progress)["loss"].backward()
        method.gradients_ready(progress)
        optimizer.step()
        method.after_step(progress)
        now = snapshot(method)
        if before:
            assert changed_outside(method, before, now) == []
        before = now


def test_state_outside_the_checkpoint_is_found():
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.zeros(2))
            self.centre, self.notes, self.helper, self.constant = torch.zeros(2), [], SimpleNamespace(steps=0), "word"

    method = Forgetful()
    before = snapshot(method)
    method.kept += 1
    assert changed_outside(method, before, snapshot(method)) == []
    method.centre = method.centre + 1
    method.notes.append(torch.ones(1))
    method.helper.steps += 1
    assert changed_outside(method, before, snapshot(method)) == ["centre", "helper.steps", "notes.0"]
