"""A small network of somebody's own, and small runs of SimCLR that it can be trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from run_factory import small_run
from torch import Tensor, nn

SECTIONS = {
    "backbone": {"name": "test_resnet"},
    "method": {"name": "simclr", "views": {"size": 32}, "head": {"layers": [16, 8]}},
    "train": {"batch": 4, "steps": 4},
}


class Net(nn.Module):
    """Features [n, width]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 5, stride=4)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


def net(seed: int = 0, width: int = 8) -> Net:
    """With weights that follow from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width)


def simclr_run(shards: Path, out: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """A configuration of four steps, with a checkpoint every two."""
    sections = {name: {**section, **changes.pop(name, {})} for name, section in SECTIONS.items()}
    run = {"workers": 0, "checkpoint_every": 2, **changes.pop("run", {})}
    return small_run(shards, out, **sections, run=run, **changes)


def own_batches(first: int, count: int = 4, samples: int = 4) -> list[dict[str, Any]]:
    """Batches of SimCLR's views from step `first` on, which follow from the number of the step."""
    found = []
    for step in range(first, count):
        views = torch.randn(samples, 2, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        found.append({"views": {"global": views}, "ids": torch.arange(samples) + step * samples})
    return found
