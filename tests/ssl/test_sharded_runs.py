"""Runs whose weights lie in parts on the ranks are those whose weights don't, in every method.

All go the way that the command goes.
"""

from __future__ import annotations

import signal
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.multiprocessing as mp
from data_factory import make_catalog
from ranks_factory import meet
from run_factory import assert_identical, logged
from tiny_methods import FRAMES, METHODS, STEPS, Tree, make_models, noisy_run

from trocar.core.config import validate
from trocar.data.loading.batch import Batch
from trocar.errors import StoppedError
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.trainer import Stop, never
from trocar.ssl.ranks import machine
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.run_hooks import RunHooks

pytestmark = pytest.mark.slow

HALF = STEPS // 2
THREE = ("dino", "dinov2", "simclr")


# Adam divides by the gradient's size: of a gradient that is nothing but rounding it makes a step like any other.
SGD = {"name": "sgd", "lr": 0.05, "scaling": "none", "weight_decay": 1e-4, "warmup": "0 steps", "clip": 0.05}


def tree_of(name: str, data: Path, out: Path, ranks: int, shard: str) -> Tree:
    """Clipped, so that norms of gradients count."""
    return noisy_run(name, data, out, ranks, train={"shard": shard}, optim=SGD)


def prepare(folder: Path) -> None:
    make_catalog(folder / "data", 4, FRAMES // 4, sources=("a", "b"))
    make_models(folder / "data")


def on_two_ranks(rank: int, folder: Path) -> None:
    world, data = World(rank, 2, rank), folder / "data"
    for name in METHODS:
        (folder / name).mkdir(exist_ok=True)
        pretrain(tree_of(name, data, folder / name / "none", 2, "none"), world)
        halved(name, data, folder / name / "full-none", world, "full", "none")
    for name in THREE:
        pretrain(tree_of(name, data, folder / name / "full", 2, "full"), world)
        for first in ("none", "full"):
            halved(name, data, folder / name / f"{first}-full", world, first, "full")


def halved(name: str, data: Path, out: Path, world: World, first: str, then: str) -> None:
    stop_halfway(tree_of(name, data, out, 2, first), world)
    pretrain(tree_of(name, data, out, 2, then), world, "again")


def pretrain(tree: Tree, world: World, attempt: str = "first", stop: Stop = never) -> None:
    out = Path(tree["run"]["out"])
    meet(out.with_suffix(f".{attempt}"))
    try:
        run(Pretraining(validate(PretrainConfig, tree, "test"), world, lambda line: None, RunGuard()), stop=stop)
    except Exception as error:
        raise RuntimeError(f"{out} on rank {world.rank} of {world.size}") from error


def stop_halfway(tree: Tree, world: World) -> None:
    stepped, received = RunHooks.stepped, []

    def then_ask_to_stop(hooks: RunHooks, batch: Batch, done: int) -> None:
        stepped(hooks, batch, done)
        if done == HALF - 1:
            received.append(signal.SIGTERM)

    with patch.object(RunHooks, "stepped", then_ask_to_stop), pytest.raises(StoppedError):
        pretrain(tree, world, stop=lambda: max(received, default=0))


@pytest.mark.parametrize(("name", "run"), [*((m, "full-none") for m in METHODS), *((m, "none-full") for m in THREE)])
def test_two_ranks_with_parts_in_either_half_of_a_run_end_as_without(launched, name, run):
    folder = launched / __name__ / name
    assert_close(folder / run, folder / "none")
    # One step alone is equal in every bit, the norm of the gradient too.
    assert logged(folder / run)[0] == logged(folder / "none")[0]


@pytest.mark.parametrize("name", THREE)
def test_a_run_with_parts_resumes_to_the_bit(launched, name):
    folder = launched / __name__ / name
    assert_identical(folder / "full-full", folder / "full", STEPS, resumed_after=HALF)


def _of_four(rank: int, folder: Path) -> None:
    """As two machines with two ranks each, where it matters."""
    torch.set_num_threads(1)
    (folder / f"boot{rank}").write_text(f"machine {rank // 2}")
    machine.BOOT_ID = folder / f"boot{rank}"
    for name in THREE:
        (folder / name).mkdir(exist_ok=True)
        for shard in ("none", "full", *(["hybrid"] if name == "dino" else [])):
            pretrain(tree_of(name, folder / "data", folder / name / shard, 4, shard), World(rank, 4, rank % 2))


def test_four_ranks_with_parts_are_four_without_up_to_the_order_of_a_sum(tmp_path):
    prepare(tmp_path)
    mp.spawn(_of_four, (tmp_path,), nprocs=4)
    for name, shard in (*((m, "full") for m in THREE), ("dino", "hybrid")):
        # One step of float32 at 1 is 1.2e-7. A norm over few values makes more of it: its running variance shows that.
        assert_close(tmp_path / name / shard, tmp_path / name / "none", atol=5e-7, of_statistics=2e-5)


def assert_close(run: Path, reference: Path, atol: float = 1e-7, of_statistics: float = 1e-7) -> None:
    """In all that a checkpoint holds of the method.

    Sums of four ranks are made in another order. On two, gradients are equal, and optimizers are not quite: a CPU's
    vectors end elsewhere in a part than in the whole, and what is left over is rounded once more.
    """
    ours, theirs = (checkpoint.load(checkpoint.path_of(folder, STEPS)).state["method"] for folder in (run, reference))
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        bound = of_statistics if "running" in key else atol
        torch.testing.assert_close(ours[key], value, rtol=0, atol=bound, msg=lambda words, key=key: f"{key}: {words}")
