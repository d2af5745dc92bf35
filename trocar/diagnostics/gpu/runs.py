"""Pretrainings for the checks: small ones of every method, and those whose speed is known from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from trocar.data.loading.loader import Backend
from trocar.diagnostics.gpu.runner import Subject
from trocar.leakage.guard import RunGuard
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.engine.method import METHODS, Method, Views
from trocar.ssl.engine.optimizer import build_optimizer
from trocar.ssl.engine.trainer import Hooks, Trainer
from trocar.ssl.methods import default
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig

Tree = dict[str, Any]
BATCH = 8


def small_methods() -> list[str]:
    """All methods that are built in."""
    return METHODS.names()


def small_method(name: str, subject: Subject) -> tuple[Method, Views]:
    """A method with small heads on a small backbone, on the CPU, and 8 samples of random views; equal at each call."""
    size, local = (48, 32) if subject.tiny else (224, 96)
    config = default(name, **_small(name, size, local))
    recipe = config.recipe()
    networks = TimmNetworks(
        BackboneConfig(name=_backbone(name, subject.tiny)), 0, [group.size for group in recipe.groups.values()]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = config.build(networks)
    generator = torch.Generator().manual_seed(1)
    crops = {
        key: torch.randn(BATCH, group.count, 3, group.size, group.size, generator=generator)
        for key, group in recipe.groups.items()
    }
    seeds = np.random.default_rng(1).integers(0, 2**32, (BATCH, recipe.count), dtype=np.uint32)
    return method, Views(crops, torch.arange(BATCH), seeds)


def _backbone(method: str, tiny: bool) -> str:
    if method in ("dino", "dinov2"):
        return "test_vit" if tiny else "vit_tiny_patch16_224"
    return "test_convnext" if tiny else "resnet18"


def _small(name: str, size: int, local: int) -> Tree:
    whole, part = {"size": size}, {"size": local, "count": 2}
    dino = {"prototypes": 256, "hidden": 64, "bottleneck": 32}
    head = {"layers": [64, 32], "batch_norm": True, "last_batch_norm": True}
    multi = {"global": whole, "local": part}
    return {
        "dino": {"views": multi, "head": dino},
        "dinov2": {"views": multi, "head": dino, "ibot_head": dino},
        "simclr": {"views": whole, "head": head},
        "moco_v2": {"views": whole, "head": head, "queue": 64},
        "moco_v3": {"views": whole, "head": head, "predictor": head},
        "swav": {"views": multi, "head": head, "prototypes": 64, "queue": 0},
        "augmented_distillation": {
            "views": {**multi, "neighbour_global": whole, "neighbour_local": {"size": local}},
            "head": dino,
        },
        "distillation": {"teacher": {"name": "random:test_byobnet"}, "views": whole, "projector": [64]},
    }.get(name, {})


def dino(subject: Subject, backbone: str, batch: int, steps: int, backend: Backend, workers: int, **train: Any) -> Tree:
    """The configuration of DINO's multi-crop training on the subject's frames."""
    views = {"global": {"size": 48}, "local": {"size": 32, "count": 2}} if subject.tiny else {}
    return {
        "data": {"catalog": str(subject.catalog.root), "composition": {"curate": "none"}, "backend": backend},
        "backbone": {"name": backbone},
        "method": {"name": "dino", "head": {"prototypes": 256 if subject.tiny else 65536}, "views": views},
        "train": {"batch": batch, "steps": steps, **train},
        "run": {"out": "unused", "workers": workers, "device": subject.device.type},
        "tracking": {"uri": "none"},
    }


def set_up(tree: Tree) -> Pretraining:
    """A run in this process, its method placed on its device."""
    setup = Pretraining(PretrainConfig.model_validate(tree), World(), lambda line: None, RunGuard())
    setup.placed()
    return setup


def trainer_of(setup: Pretraining, hooks: Hooks) -> Trainer:
    """The trainer of a run that is set up, with a new optimizer."""
    config, method = setup.config, setup.method
    optimizer = build_optimizer(method, config.optim)
    seed = config.run.seed
    return Trainer(
        method, optimizer, setup.schedule, config.train, config.optim, seed, setup.world, setup.device, hooks
    )


def script(folder: Path, tree: Tree, name: str) -> Path:
    """A program that pretrains by this configuration, with deterministic kernels where there are any."""
    path = folder / f"{name}.py"
    path.write_text(
        "import sys, torch\n"
        "torch.use_deterministic_algorithms(True, warn_only=True)\n"
        "from trocar.leakage.guard import RunGuard\n"
        "from trocar.ssl.ranks.distributed import World\n"
        "from trocar.ssl.run.assembly import Pretraining\n"
        "from trocar.ssl.run.pretrain import run\n"
        "from trocar.ssl.run.pretrain_config import PretrainConfig\n"
        f"run(Pretraining(PretrainConfig.model_validate({tree!r}), World(), print, RunGuard()))\n",
        encoding="utf-8",
    )
    return path
