"""Labelled data with training, validation and test cases, and tiny runs that are scored on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from downstream_factory import make_folder
from mask_factory import make_mask_folder
from run_factory import small_run

from trocar.core.config import validate
from trocar.ssl.run.pretrain_config import PretrainConfig

SPLITS = ("train", "val", "test")


def divided(folder: Path) -> Path:
    """The data set with its cases in training, validation and test, in turn."""
    table = pd.read_csv(folder / "frames.csv")
    table["split"] = [SPLITS[int(case.removeprefix("case")) % 3] for case in table["case"]]
    table.to_csv(folder / "frames.csv", index=False)
    return folder


def make_probed(root: Path, cases: int = 9, frames: int = 6, seed: int = 0) -> Path:
    """Phases that brightness tells, and tools at random: a curve that goes up and down."""
    divided(make_folder(root, cases, frames))
    table = pd.read_csv(root / "frames.csv")
    table["tool_red"] = np.random.default_rng(seed).integers(0, 2, len(table))
    table.to_csv(root / "frames.csv", index=False)
    return root


def make_probed_masks(root: Path, cases: int = 9, frames: int = 3) -> Path:
    """Masks; the last frame of a case has none."""
    return divided(make_mask_folder(root, cases, frames))


def probed_run(shards: Path, out: Path, **sections: Any) -> PretrainConfig:
    """SimCLR on a network with batch norm and dropped paths, 12 steps of four frames."""
    own: dict[str, Any] = {
        "backbone": {"name": "test_resnet", "drop_path": 0.2},
        "method": {"name": "simclr", "views": {"size": 32}, "head": {"layers": [16, 8]}},
        "optim": {"lr": 0.05, "warmup": "0 steps", "schedule": "constant"},
        "train": {"batch": 4, "steps": 12},
        "run": {"workers": 0, "threads": 1, "checkpoint_every": 5},
    }
    own |= {name: {**own[name], **section} if name in own else section for name, section in sections.items()}
    return validate(PretrainConfig, small_run(shards, out, **own), "test")
