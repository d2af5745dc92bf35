"""Two networks through every protocol of every task of the phantom, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from trocar.downstream.protocols.base import PROTOCOLS as REGISTERED
from trocar.phantom import PhantomSpec, generate

pytestmark = pytest.mark.slow

ARMS = ("random:test_resnet", "random:test_vit")
TUNED = {"epochs": 6, "batch": 8, "lr": 2.0e-3, "layer_decay": 0.9, "class_weights": "balanced", "augment": None}
TEMPORAL = {"lr": 5.0e-3, "epochs": 20}
PROTOCOLS: list[dict[str, Any]] = [
    {"name": "knn"},
    {"name": "linear"},
    {"name": "finetune", **TUNED},
    {"name": "temporal_frozen", "head": {"name": "mstcn", "layers": 4, "maps": 16}, **TEMPORAL},
    {"name": "temporal_frozen", "head": {"name": "asformer", "layers": 3, "decoders": 1, "maps": 16}, **TEMPORAL},
    {"name": "temporal_finetuned", "head": {"name": "gru", "hidden": 32}, **TEMPORAL, "finetune": TUNED},
    {"name": "segmentation", "epochs": 6, "batch": 8, "lr": 2.0e-3},
    {"name": "segmentation", "decoder": "linear", "freeze": True, "epochs": 6, "batch": 8, "lr": 2.0e-2},
]
OF_FRAMES = (
    "knn",
    "linear",
    "finetune",
    "temporal_frozen mstcn, online",
    "temporal_frozen asformer, offline",
    "temporal_finetuned gru, online",
)
OF_MASKS = ("segmentation fpn", "segmentation linear, frozen")

CONSTANT = {"segmentation": "constant_mask"}
SAFE = {
    "phase": ("knn", "linear", "temporal_frozen mstcn, online", "temporal_finetuned gru, online"),
    "tools": ("knn", "linear", "temporal_frozen mstcn, online", "finetune", "finetune, phase+tools"),
    "cvs": ("knn", "linear", "temporal_frozen mstcn, online", "temporal_frozen asformer, offline"),
    "segmentation": OF_MASKS,
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one evaluation of everything."""
    root = tmp_path_factory.mktemp("every")
    generate(root / "phantom", PhantomSpec(cases=9, minutes=0.35, size=(96, 64), seed=1))
    config = {
        "data": str(root / "phantom"),
        "backbone": list(ARMS),
        "task": ["phase", "tools", "cvs", "segmentation", "phase+tools"],
        "protocol": PROTOCOLS,
        "baselines": ["majority"],
        "seeds": 1,
        "size": 48,
        "bootstrap": 0,
        "figures": False,
    }
    (root / "evaluate.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "trocar", "evaluate", str(root / "evaluate.yaml"), "--out", str(root / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return root / "out"


def headlines(out: Path) -> dict[tuple[str, str, str], float]:
    rows = json.loads((out / "results.json").read_text())["rows"]
    return {(r["task"], r["protocol"], r["backbone"]): r["metrics"][r["headline"]]["mean"] for r in rows}


def test_no_protocol_is_forgotten_here() -> None:
    assert {str(one["name"]) for one in PROTOCOLS} == set(REGISTERED.names())


def test_every_task_has_a_row_of_every_network_and_protocol_that_can_learn_it(out: Path) -> None:
    wanted = {(task, label, arm) for task in ("phase", "tools", "cvs") for label in OF_FRAMES for arm in ARMS}
    wanted |= {(task, "finetune, phase+tools", arm) for task in ("phase", "tools") for arm in ARMS}
    wanted |= {("segmentation", label, arm) for label in OF_MASKS for arm in ARMS}
    wanted |= {(task, "prior", "majority") for task in ("phase", "tools", "cvs")}
    wanted.add(("segmentation", "constant_mask", "majority"))
    found = headlines(out)
    assert set(found) == wanted
    assert [key for key, value in found.items() if value is None or not 0 <= value <= 1] == []


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("task", ["phase", "tools", "cvs", "segmentation"])
def test_what_is_learned_beats_the_constant(out: Path, task: str, arm: str) -> None:
    """Of networks drawn at random, fine-tuned on 90 frames, only the rows that do so by far."""
    found = headlines(out)
    constant = found[task, CONSTANT.get(task, "prior"), "majority"]
    behind = {label: found[task, label, arm] for label in SAFE[task] if found[task, label, arm] <= constant}
    assert behind == {}, f"the constant has {constant}"


def test_every_row_has_its_metrics_recomputed_from_the_predictions(out: Path) -> None:
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    found = headlines(out)
    assert {(row["task"], row["protocol"], row["backbone"]) for row in rows} == set(found)
    shown = {
        "phase": "f1@pooled_macro",
        "tools": "map@pooled",
        "cvs": "map",
        "segmentation": "iou@dataset_no_background",
    }
    for row in rows:
        value = row["metrics"][shown[row["task"]]]["value"]
        assert value == pytest.approx(found[row["task"], row["protocol"], row["backbone"]], abs=1e-6)
