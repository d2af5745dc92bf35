"""`train.compile` with stages, factors and an anchor: the same training up to rounding, a stage's graphs made once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from run_factory import logged
from tiny_methods import METHODS, TEACHER, VIT, Tree, merged, tiny_run

from trocar.core.config import validate
from trocar.data.loading.batch import Batch
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine import checkpoint
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.run_hooks import RunHooks

FROZEN, TOTAL = 2, 6
STAGES = {"frozen": f"{FROZEN} steps", "ramp": "2 steps"}
LORA = {"rank": 2, "alpha": 8}
COPIES = {"kind": "features", "teacher": "ema", "refresh": "3 steps", "weight": 3.0}
SGD = {"name": "sgd", "lr": 0.5, "scaling": "none", "weight_decay": 1e-3, "warmup": "0 steps", "momentum": 0.9}


@dataclass(frozen=True)
class Compiled:
    """A method whose backbone begins in stages; the teacher's network is compiled as a whole, the others by blocks."""

    method: str
    backbone: str
    adapt: Tree = field(default_factory=dict)
    anchor: Tree | None = None


CASES = {
    "stages": Compiled("simclr", TEACHER),
    "frozen norms": Compiled("moco_v2", TEACHER, {"norm_buffers": "frozen"}),
    "factors": Compiled("dinov2", VIT, {"lora": LORA}),
    "anchor": Compiled("dino", VIT, anchor={"kind": "gram"}),
    "factors and copies": Compiled("dino", VIT, {"lora": LORA}, COPIES),
    "distillation": Compiled("distillation", TEACHER),
}


FAST = "factors and copies"


class Graphs:
    """A backend that computes what it is given as it is, and counts what it was given."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.made += 1
        return graph.forward


def trained(name: str, data: Path, out: Path, backend: Any) -> list[int]:
    """Run a case, compiled by `backend` unless that is None; after how many graphs each step ended."""
    case, torch_compile = CASES[name], backend is not None
    method = merged(METHODS[case.method].method, METHODS[case.method].plain)
    sections = {} if case.anchor is None else {"anchor": case.anchor}
    tree = tiny_run(
        case.method,
        data,
        out,
        1,
        method,
        backbone={"name": case.backbone},
        train={"steps": TOTAL, "compile": torch_compile},
        optim=SGD,
        adapt=STAGES | case.adapt,
        **sections,
    )
    tree["run"]["checkpoint_every"] = FROZEN
    tree["run"]["keep_last"] = TOTAL
    stepped, made = RunHooks.stepped, []

    def counted(hooks: RunHooks, batch: Batch, done: int) -> None:
        stepped(hooks, batch, done)
        made.append(getattr(backend, "made", 0))

    torch._dynamo.reset()
    with patch("trocar.ssl.blocks.networks.INDUCTOR", backend), patch.object(RunHooks, "stepped", counted):
        run(Pretraining(validate(PretrainConfig, tree, "test"), World(), lambda line: None, RunGuard()))
    return made


def require_same_training(compiled: Path, plain: Path) -> None:
    """Losses, and how the student has moved since the frozen stage."""
    ours, theirs = ([row["loss"] for row in logged(out)] for out in (compiled, plain))
    assert ours == pytest.approx(theirs, rel=1e-4)
    before, after, found = (
        checkpoint.load(checkpoint.path_of(out, step)).state["method"]
        for out, step in ((plain, FROZEN), (plain, TOTAL), (compiled, TOTAL))
    )
    student = [key for key in after if key.startswith("student.")]
    learned = [key for key in student if not torch.equal(before[key], after[key])]
    moved, apart = (
        torch.cat([(after[key] - other[key]).double().flatten() for key in learned]).norm() for other in (before, found)
    )
    assert apart < 1e-3 * moved
    assert all(
        torch.equal(after[key], found[key]) for key in after if key.startswith("student.") and key not in learned
    )


@pytest.mark.parametrize("name", [n if n == FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_compiled_stages_train_as_they_are_written_and_make_graphs_at_their_first_step_alone(data, tmp_path, name):
    """The compiler's front end: it sees which weights take gradients, and which norms stand still."""
    made = trained(name, data, tmp_path / "compiled", Graphs())
    trained(name, data, tmp_path / "plain", None)
    require_same_training(tmp_path / "compiled", tmp_path / "plain")
    assert made[0] == made[FROZEN - 1] > 0
    assert made[FROZEN - 1] < made[FROZEN] == made[-1]


@pytest.mark.slow
def test_machine_code_trains_a_frozen_stage_factors_and_an_anchor_as_plain_code_does(data, tmp_path):
    trained("factors and copies", data, tmp_path / "compiled", "inductor")
    trained("factors and copies", data, tmp_path / "plain", None)
    require_same_training(tmp_path / "compiled", tmp_path / "plain")
