"""Runs with an anchor: over ranks, in parts, over a stop between two copies, and against other first weights.

All go the way that the command goes.
"""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from data_factory import make_catalog
from ranks_factory import meet
from run_factory import assert_identical, logged
from tiny_methods import FRAMES, METHODS, STEPS, VIT, Tree, make_models, merged, noisy_run, tiny_run

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import describe_backbone
from trocar.core.config import validate
from trocar.data.loading.batch import Batch
from trocar.errors import ConfigError, StoppedError
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.trainer import Stop, never
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.run_hooks import RunHooks

pytestmark = pytest.mark.slow

HALF = STEPS // 2
SGD = {"name": "sgd", "lr": 0.05, "scaling": "none", "weight_decay": 1e-4, "warmup": "0 steps", "clip": 0.05}
COPIES = {"teacher": "ema", "refresh": "2 steps", "weight": 3.0}  # steps 0, 2 and 4: one on each side of a stop at HALF


@dataclass(frozen=True)
class Anchored:
    """A method with an anchor; `backbone` shows several patches of its small views."""

    method: str
    anchor: Tree
    train: Tree = field(default_factory=dict)
    backbone: str = VIT


CASES = {
    "gram": Anchored("dino", {"kind": "gram"}, {"accumulate": 2}),
    "alignment": Anchored("dinov2", {"kind": "alignment", "teacher": "ema"}),
    "features": Anchored("moco_v3", {"kind": "features"}),
    "copies": Anchored("dino", {"kind": "cosine", **COPIES}, backbone="test_convnext"),
}


def comparable(name: str, data: Path, out: Path, ranks: int, **train: object) -> Tree:
    """Without anything that depends on the rank."""
    case = CASES[name]
    method = merged(METHODS[case.method].method, METHODS[case.method].plain)
    return tiny_run(
        case.method,
        data,
        out,
        ranks,
        method,
        backbone={"name": case.backbone},
        train={**case.train, **train},
        optim=SGD,
        anchor=case.anchor,
    )


def copied(data: Path, out: Path, ranks: int, method: str = "simclr") -> Tree:
    """With batch norm that differs by rank and stochastic depth, towards copies of the student."""
    return noisy_run(method, data, out, ranks, anchor={"kind": "features", **COPIES})


def prepare(folder: Path) -> None:
    make_catalog(folder / "data", 4, FRAMES // 4, sources=("a", "b"))
    make_models(folder / "data")


def on_two_ranks(rank: int, folder: Path) -> None:
    world, data = World(rank, 2, rank), folder / "data"
    for name in CASES:
        for shard in ("none", "full"):
            pretrain(comparable(name, data, made(folder / name) / shard, 2, shard=shard), world)
    stopped = comparable("copies", data, folder / "copies" / "stopped", 2, shard="full")
    stop_halfway(stopped, world)
    pretrain(stopped, world, "again")


def alone(folder: Path) -> None:
    for name in CASES:
        pretrain(comparable(name, folder / "data", made(folder / name) / "one", 1), World())


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def pretrain(tree: Tree, world: World, attempt: str = "first", stop: Stop = never) -> None:
    meet(Path(tree["run"]["out"]).with_suffix(f".{attempt}"))
    run(Pretraining(validate(PretrainConfig, tree, "test"), world, lambda line: None, RunGuard()), stop=stop)


def stop_halfway(tree: Tree, world: World) -> None:
    stepped, received = RunHooks.stepped, []

    def then_ask_to_stop(hooks: RunHooks, batch: Batch, done: int) -> None:
        stepped(hooks, batch, done)
        if done == HALF - 1:
            received.append(signal.SIGTERM)

    with patch.object(RunHooks, "stepped", then_ask_to_stop), pytest.raises(StoppedError):
        pretrain(tree, world, stop=lambda: max(received, default=0))


def state(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.path_of(run, STEPS)).state["method"]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_are_one_with_the_same_global_batch(launched, name):
    two, one = (launched / __name__ / name / out for out in ("none", "one"))
    for ours, theirs in zip(logged(two), logged(one), strict=True):
        for key in ("loss", "method_loss", "anchor_loss", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key
    assert any(row["anchor_loss"] > 1e-6 for row in logged(one))
    torch.testing.assert_close(state(two), state(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_weights_in_parts_are_weights_as_a_whole(launched, name):
    parts, whole = (launched / __name__ / name / out for out in ("full", "none"))
    assert logged(parts)[0] == logged(whole)[0]
    torch.testing.assert_close(state(parts), state(whole), rtol=0, atol=1e-6)


def test_a_run_in_parts_resumes_to_the_bit_between_two_copies(launched):
    folder = launched / __name__ / "copies"
    assert_identical(folder / "stopped", folder / "full", STEPS, resumed_after=HALF)


@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_a_stop_between_two_copies_changes_no_bit(data, tmp_path, method):
    reference, stopped = (copied(data, tmp_path / out, 1, method) for out in ("reference", "stopped"))
    pretrain(reference, World())
    stop_halfway(stopped, World())
    pretrain(stopped, World(), "again")
    assert_identical(tmp_path / "stopped", tmp_path / "reference", STEPS, resumed_after=HALF)
    ours = {k.removeprefix("feature_anchor.copy."): v for k, v in state(tmp_path / "stopped").items() if "copy" in k}
    exported = load_backbone(tmp_path / "stopped").state_dict()
    assert any(not torch.equal(value, exported[key]) for key, value in ours.items())  # that of step 4, not of the end


def test_other_first_weights_are_refused_at_a_resume(data, tmp_path):
    backbone, out = tmp_path / "first", tmp_path / "run"
    shutil.copytree(data / VIT, backbone)
    first = {"name": str(backbone)}
    tree = tiny_run("simclr", data, out, 1, METHODS["simclr"].method, backbone=first, anchor={"kind": "gram"})
    stop_halfway(tree, World())
    other = load_backbone("test_vit", seed=77)
    save_backbone(other, backbone, extra={}, preprocessing=describe_backbone(other))
    with pytest.raises(ConfigError, match=r"recipe\.anchor_weights: 'f1:"):
        pretrain(tree, World(), "again")


def test_an_anchor_is_part_of_the_recipe_and_none_is_not(data, tmp_path):
    tree = tiny_run("simclr", data, tmp_path / "run", 1, METHODS["simclr"].method, backbone={"name": VIT})
    plain, anchored = (
        validate(PretrainConfig, tree | more, "test").recipe() for more in ({}, {"anchor": {"kind": "gram"}})
    )
    assert "anchor" not in plain
    assert anchored["anchor"]["kind"] == "gram"


def test_compiled_blocks_change_nothing_but_rounding(data, tmp_path):
    """The compiler's front end alone: machine code is not what is asked here."""
    found = {}
    for compiled in (False, True):
        tree = comparable("gram", data, tmp_path / str(compiled), 1, compile=compiled)
        with patch("trocar.ssl.blocks.networks.INDUCTOR", "eager"):
            pretrain(tree, World())
        found[compiled] = [row["anchor_loss"] for row in logged(tmp_path / str(compiled))]
    assert found[True] == pytest.approx(found[False], rel=1e-4, abs=1e-7)
    assert found[True][0] < 1e-10
