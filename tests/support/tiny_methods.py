"""A tiny configuration of every method, for tests that hold for all of them.

A new method needs an entry in `METHODS`: small views and heads, and lengths that make the first three of six steps and
the last three differ (a queue that wraps, something frozen that thaws).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from run_factory import small_run

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import describe_backbone

STEPS = 6
BATCH = 8
FRAMES = 44  # batches of 8 don't end with the epoch, so the last one may hold a frame twice
TEACHER, VIT = "tiny-teacher", "tiny-vit"  # stand for the folders that `make_models` fills

Tree = dict[str, Any]


@dataclass(frozen=True)
class Tiny:
    """`method` as in a configuration, and what takes the batch norms out of it; backbones without and with batch norm.

    `with_batch_norm` is None for a method that can't use one. It has smooth activations: a ReLU that rounding takes to
    the other side of 0 changes a gradient by far more than rounding.
    """

    method: Tree
    plain: Tree = field(default_factory=dict)
    accumulate: int = 1
    backbone: str = "test_convnext"
    with_batch_norm: str | None = "test_efficientnet"


GLOBAL, LOCAL = {"size": 32}, {"size": 32, "count": 2}
DINO_HEAD = {"prototypes": 24, "hidden": 32, "bottleneck": 16}
HEAD = {"layers": [32, 16], "batch_norm": True, "last_batch_norm": True}
PLAIN = {"batch_norm": False, "last_batch_norm": False}

METHODS = {
    "dino": Tiny(
        {"views": {"global": GLOBAL, "local": LOCAL}, "head": DINO_HEAD, "freeze_last_layer": "4 steps"}, accumulate=2
    ),
    "dinov2": Tiny(
        {
            "views": {"global": {"size": 48}, "local": LOCAL},
            "head": DINO_HEAD,
            "ibot_head": DINO_HEAD,
            "centring": "sinkhorn",  # of patches, of which ranks have different numbers
            "masking": {"probability": 0.8, "ratio": [0.3, 0.7], "smallest": 1},
            "freeze_last_layer": "4 steps",
        },
        accumulate=2,
        backbone=VIT,
        with_batch_norm=None,
    ),
    "simclr": Tiny({"views": GLOBAL, "head": HEAD}, {"head": PLAIN}),
    "moco_v2": Tiny({"views": GLOBAL, "head": HEAD, "queue": 20, "momentum": 0.9}, {"head": PLAIN}),
    "moco_v3": Tiny(
        {"views": GLOBAL, "head": HEAD, "predictor": HEAD, "momentum": 0.9},
        {"head": PLAIN, "predictor": PLAIN},
        accumulate=2,
    ),
    "swav": Tiny(
        {
            "views": {"global": GLOBAL, "local": LOCAL},
            "head": HEAD,
            "prototypes": 12,
            "queue": 12,
            "queue_start": "1 steps",
            "freeze_prototypes": "4 steps",
        },
        {"head": PLAIN},
    ),
    "augmented_distillation": Tiny(
        {
            "views": {"global": GLOBAL, "local": LOCAL, "neighbour_global": GLOBAL, "neighbour_local": {"size": 32}},
            "head": DINO_HEAD,
            "freeze_last_layer": "4 steps",
        }
    ),
    "distillation": Tiny({"teacher": {"name": TEACHER}, "views": GLOBAL, "projector": [32], "angle_group": 4}),
}


def tiny_run(name: str, data: Path, out: Path, ranks: int, method: Tree, **sections: Tree) -> Tree:
    """The configuration of a run of the method `name` on what `make_data` left in `data`."""
    train = {"batch": BATCH, "steps": STEPS, **sections.pop("train", {})}
    run = {"ranks": ranks, "workers": 0, "checkpoint_every": 100}
    tree = {"method": {"name": name, **method}, "train": train, "run": run, **sections}
    return small_run(data, out, **_with_paths(tree, {name: str(data / name) for name in (TEACHER, VIT)}))


def noisy_run(name: str, data: Path, out: Path, ranks: int, **sections: Tree) -> Tree:
    """`tiny_run` with batch norm that differs by rank and stochastic depth: all the noise there is."""
    case = METHODS[name]
    backbone = {
        "name": case.with_batch_norm or case.backbone,
        "drop_path": 0.2,
        "drop_path_mode": "skip" if name == "dinov2" else "mask",
    }
    return tiny_run(name, data, out, ranks, case.method, backbone=backbone, **sections)


def make_models(data: Path) -> None:
    """A teacher, and a vision transformer whose features lie apart from the start.

    timm's first weights give all frames nearly the same features. Then KoLeo's gradient is huge, and what two runs
    differ in by rounding grows with each step.
    """
    teacher, vit = load_backbone("random:test_byobnet", seed=5), load_backbone("test_vit", seed=6)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter *= 6 if parameter.dim() > 1 else 1
    for name, model in ((TEACHER, teacher), (VIT, vit)):
        save_backbone(model, data / name, extra={}, preprocessing=describe_backbone(model))


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """The tree with changes, all the way down."""
    both = {
        key: merged(tree[key], value) if isinstance(tree.get(key), dict) and isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return {**tree, **both}


def _with_paths(tree: Any, paths: Mapping[str, str]) -> Any:
    if isinstance(tree, dict):
        return {key: _with_paths(value, paths) for key, value in tree.items()}
    return paths.get(tree, tree) if isinstance(tree, str) else tree
