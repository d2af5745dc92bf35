"""What holds for every method there is: it resumes to the bit, two ranks are one, a checkpoint holds all its state.

All runs go the way that the command goes, once on one rank and once on two.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from data_factory import make_catalog
from ranks_factory import meet
from run_factory import assert_identical, logged
from tiny_methods import FRAMES, METHODS, STEPS, Tiny, Tree, make_models, merged, tiny_run

from trocar.config import validate
from trocar.data.loader import Batch
from trocar.ssl import checkpoint
from trocar.ssl.distributed import World
from trocar.ssl.methods import configs
from trocar.ssl.pretrain import run
from trocar.ssl.pretrain_config import PretrainConfig
from trocar.ssl.run_hooks import RunHooks
from trocar.ssl.signals import StoppedError

pytestmark = pytest.mark.slow

HALF = STEPS // 2
# Without moments that divide by themselves: Adam's first step is the gradient's sign, whose rounding is everything.
SGD = {"name": "sgd", "lr": 0.05, "scaling": "none", "weight_decay": 1e-4, "warmup": "0 steps"}


def tiny(name: str) -> Tiny:
    if name not in METHODS:
        pytest.fail(f"the method {name!r} has no entry in tests/tiny_methods.py: add one, and it is tested with all others")
    return METHODS[name]


def resumable(name: str, data: Path, out: Path, ranks: int) -> Tree:
    """With batch norm that differs by rank and stochastic depth: all the noise there is."""
    case = METHODS[name]
    return tiny_run(
        name,
        data,
        out,
        ranks,
        case.method,
        backbone={"name": case.with_batch_norm or case.backbone, "drop_path": 0.2},
        train={"accumulate": case.accumulate},
        optim={"lr": 0.02, "warmup": "2 steps"},
    )


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
        optim=SGD,
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
    for name in METHODS:
        (own / name).mkdir(parents=True, exist_ok=True)
        pretrain(resumable(name, data, own / name / "undisturbed", world.size), world)
        again = resumable(name, data, own / name / "stopped", world.size)
        stop_halfway(again, world)
        pretrain(again, world, "again")
    for name, kind in COMPARED:
        pretrain(comparable(name, kind, data, own / name / kind, world.size), world)


def pretrain(tree: Tree, world: World, attempt: str = "first") -> None:
    out = Path(tree["run"]["out"])
    meet(out.with_suffix(f".{attempt}"))
    try:
        run(validate(PretrainConfig, tree, "test"), world, say=lambda line: None)
    except Exception as error:
        raise RuntimeError(f"{out} on rank {world.rank} of {world.size}") from error


def stop_halfway(tree: Tree, world: World) -> None:
    """The last rank gets a signal before step HALF, and all stop after it."""
    stepped = RunHooks.stepped

    def then_ask_to_stop(hooks: RunHooks, batch: Batch, done: int) -> None:
        stepped(hooks, batch, done)
        if done == HALF - 1 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with patch.object(RunHooks, "stepped", then_ask_to_stop), pytest.raises(StoppedError):
        pretrain(tree, world)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", configs())
def test_a_stopped_run_ends_in_the_bits_of_one_that_was_not(launched, name, ranks):
    tiny(name)
    folder = launched / __name__ / str(ranks) / name
    assert_identical(folder / "stopped", folder / "undisturbed", STEPS, resumed_after=HALF)


@pytest.mark.parametrize(("name", "kind"), COMPARED)
def test_two_ranks_are_one_with_the_same_global_batch(launched, name, kind):
    one, two = (launched / __name__ / ranks / name / kind for ranks in "12")
    for ours, theirs in zip(logged(two), logged(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    states = [checkpoint.load(checkpoint.path_of(folder, STEPS)).state["method"] for folder in (two, one)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
