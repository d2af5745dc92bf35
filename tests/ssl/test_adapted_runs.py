"""Runs in stages and with factors, on one rank and on two: they resume to the bit across the borders, and a frozen
backbone is its first weights to the bit.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from data_factory import make_catalog
from ranks_factory import meet
from run_factory import assert_identical, logged
from safetensors.torch import load_file
from tiny_methods import FRAMES, METHODS, TEACHER, VIT, Tree, make_models, tiny_run

from trocar.backbones.load import load_backbone
from trocar.backbones.lora import is_factor
from trocar.core.config import validate
from trocar.data.loading.batch import Batch
from trocar.errors import StoppedError
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine import checkpoint
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.run_hooks import RunHooks

FROZEN, RAMP, TOTAL = 2, 3, 7
STOPS = (1, 2, 4, 6)  # in the frozen stage, at its end, in the ramp, after it
STAGES = {"frozen": f"{FROZEN} steps", "ramp": f"{RAMP} steps"}
LORA = {"rank": 2, "alpha": 8, "dropout": 0.2}
SGD = {"name": "sgd", "lr": 0.05, "scaling": "none", "weight_decay": 1e-3, "warmup": "0 steps", "momentum": 0.9}
ADAMW = {"lr": 0.02, "warmup": "2 steps", "layer_decay": 0.8, "patch_embed_lr": 0.5}
# The teacher's network has batch norms; every method that two ranks could take apart in another way is here.
CASES: dict[str, tuple[str, Tree, Tree]] = {
    "simclr": ("simclr", SGD, STAGES),
    "moco_v2 frozen norms": ("moco_v2", SGD, STAGES | {"norm_buffers": "frozen"}),
    "dino": ("dino", ADAMW, STAGES),
    "dino lora": ("dino", ADAMW, STAGES | {"lora": LORA}),
    "dinov2 lora": ("dinov2", ADAMW, STAGES | {"lora": LORA}),
    "distillation": ("distillation", SGD, STAGES),
}
BOTH = ["simclr", "dino lora"]
SHARDED = "simclr in parts"


def adapted_run(case: str, data: Path, out: Path, ranks: int, every: int = 100) -> Tree:
    name, optim, adapt = CASES[case]
    tree = tiny_run(
        name,
        data,
        out,
        ranks,
        METHODS[name].method,
        backbone={"name": VIT if name == "dinov2" else TEACHER},
        train={"steps": TOTAL, "accumulate": METHODS[name].accumulate},
        optim=optim,
        adapt=adapt,
    )
    tree["run"]["checkpoint_every"], tree["run"]["keep_last"] = every, TOTAL
    return tree


def pretrain(tree: Tree, world: World, stop_after: int = TOTAL + 1, attempt: str = "first") -> None:
    """The last rank is asked to stop before step `stop_after`, and all stop after it."""
    meet(Path(tree["run"]["out"]).with_suffix(f".{attempt}"))
    stepped = RunHooks.stepped
    received = [signal.SIGTERM] if stop_after == 1 and world.rank == world.size - 1 else []

    def then_ask_to_stop(hooks: RunHooks, batch: Batch, done: int) -> None:
        stepped(hooks, batch, done)
        if done == stop_after - 1 and world.rank == world.size - 1:
            received.append(signal.SIGTERM)

    setup = Pretraining(validate(PretrainConfig, tree, "test"), world, lambda line: None, RunGuard())
    with patch.object(RunHooks, "stepped", then_ask_to_stop):
        run(setup, stop=lambda: max(received, default=0))


def undisturbed(case: str, data: Path, own: Path, world: World) -> None:
    """`own/undisturbed`, with a checkpoint of every step."""
    own.mkdir(parents=True, exist_ok=True)
    pretrain(adapted_run(case, data, own / "undisturbed", world.size, every=1), world)


def stopped(case: str, data: Path, own: Path, world: World, stop: int) -> None:
    """`own/stopped-N`, which went on after it."""
    tree = adapted_run(case, data, own / f"stopped-{stop}", world.size)
    with pytest.raises(StoppedError):
        pretrain(tree, world, stop)
    pretrain(tree, world, attempt="again")


def prepare(folder: Path) -> None:
    make_catalog(folder / "data", 4, FRAMES // 4, sources=("a", "b"))
    make_models(folder / "data")


def on_two_ranks(rank: int, folder: Path) -> None:
    for case in BOTH:
        undisturbed(case, folder / "data", folder / case, World(rank, 2, rank))
        for stop in (1, 4):
            stopped(case, folder / "data", folder / case, World(rank, 2, rank), stop)
    (folder / SHARDED).mkdir(exist_ok=True)
    tree = adapted_run("simclr", folder / "data", folder / SHARDED / "undisturbed", 2, every=1)
    tree["train"]["shard"] = "full"
    pretrain(tree, World(rank, 2, rank))


@pytest.mark.slow
@pytest.mark.parametrize("case", BOTH)
@pytest.mark.parametrize("stop", [1, 4])
def test_two_ranks_resume_to_the_bit_across_the_borders(launched, case, stop):
    folder = launched / __name__ / case
    assert_identical(folder / f"stopped-{stop}", folder / "undisturbed", TOTAL, resumed_after=stop)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*BOTH, SHARDED])
def test_on_two_ranks_a_frozen_backbone_is_its_first_weights(launched, case):
    require_first_weights(launched / __name__ / case / "undisturbed", launched / __name__ / "data" / TEACHER)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("adapted")

    def of(case: str) -> Path:
        if not (folder / case).exists():
            undisturbed(case, data, folder / case, World())
        return folder / case

    return of


@pytest.mark.slow
@pytest.mark.parametrize("case", BOTH)
@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_in_any_stage_changes_no_bit(finished, data, case, stop):
    stopped(case, data, finished(case), World(), stop)
    assert_identical(finished(case) / f"stopped-{stop}", finished(case) / "undisturbed", TOTAL, resumed_after=stop)


@pytest.mark.parametrize("case", CASES)
def test_a_frozen_backbone_is_its_first_weights_and_the_rest_learns(finished, data, case):
    require_first_weights(finished(case) / "undisturbed", data / (VIT if case.startswith("dinov2") else TEACHER))


def require_first_weights(out: Path, first: Path) -> None:
    """Of student and teacher, running statistics included; then they move."""
    start = {key: v for key, v in load_backbone(first).state_dict().items() if key != "pos_embed"}
    states = {step: checkpoint.load(checkpoint.path_of(out, step)).state["method"] for step in range(1, TOTAL + 1)}
    networks = [name for name in ("student", "teacher") if f"{name}.{next(iter(start))}" in states[1]]
    assert networks
    for step in range(1, FROZEN + 1):
        for network in networks:
            assert [k for k, v in start.items() if not torch.equal(states[step][f"{network}.{k}"], v)] == []
    lora = any(is_factor(key) for key in states[1])
    moved = [k for k, v in states[FROZEN].items() if "head" in k or "projector" in k or is_factor(k)]
    before, after = states[FROZEN], states[TOTAL]
    assert any(not torch.equal(states[1][k], before[k]) for k in moved if not is_factor(k))
    student = [k for k in before if k.startswith("student.") and after[k].is_floating_point()]
    learned = [k for k in student if is_factor(k)] if lora else [k for k in student if k.endswith("weight")]
    # Not all: timm's last norm of a block is zero at first, and what is before it gets no gradient yet.
    assert sum(torch.equal(after[k], before[k]) for k in learned) < len(learned) / 2
    if lora:
        assert all(torch.equal(after[k], before[k]) for k in student if k.endswith(("weight", "bias")))


def test_the_optimizer_holds_nothing_of_a_backbone_that_was_frozen_so_far(finished):
    states = [
        checkpoint.load(checkpoint.path_of(finished("dino") / "undisturbed", step)).state["optimizer"]
        for step in (FROZEN, FROZEN + 1)
    ]
    for state, begun in zip(states, (False, True), strict=True):
        for group in state["param_groups"]:
            if group["staged"]:
                assert {index in state["state"] for index in group["params"]} == {begun}


@pytest.mark.parametrize(("case", "moving"), [("simclr", True), ("moco_v2 frozen norms", False)])
def test_running_statistics_move_after_the_frozen_stage_unless_they_are_frozen(finished, case, moving):
    before, after = (
        checkpoint.load(checkpoint.path_of(finished(case) / "undisturbed", step)).state["method"]
        for step in (FROZEN, TOTAL)
    )
    running = [k for k in before if k.startswith(("student.", "teacher.")) and "running_" in k]
    assert running
    assert [k for k in running if torch.equal(before[k], after[k])] == ([] if moving else running)
    heads = [k for k in before if "head" in k and "running_" in k]
    assert all(not torch.equal(before[k], after[k]) for k in heads)


def test_the_factor_is_logged(finished):
    rows = logged(finished("simclr") / "undisturbed")
    assert [row["backbone_lr_factor"] for row in rows] == [0, 0, 0, 0.5, 1, 1, 1]


def test_what_a_run_with_factors_exports_is_the_adapted_teacher_as_plain_timm(finished, data):
    out = finished("dino lora") / "undisturbed"
    exported, first = load_file(out / "backbone" / "model.safetensors"), load_file(data / TEACHER / "model.safetensors")
    assert exported.keys() == first.keys()
    state = checkpoint.load(checkpoint.path_of(out, TOTAL)).state["method"]
    changed = [k for k in first if k.endswith("weight") and not torch.equal(exported[k], first[k])]
    assert changed
    for key in changed:
        a, b = (state[f"teacher.{key.removesuffix('weight')}{name}"] for name in ("lora_a", "lora_b"))
        expected = first[key].double() + 8 / 2 * (b.double() @ a.double()).view_as(first[key])
        torch.testing.assert_close(exported[key].double(), expected, rtol=1e-6, atol=1e-6)
    assert load_backbone(out / "backbone") is not None
