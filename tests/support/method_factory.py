"""A tiny backbone and tiny views, for tests of methods."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from trocar.backbones.preprocess import Preprocessing
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.engine.method import Method, MethodConfig, Progress, Views
from trocar.ssl.run.auto_values import DataSize

START = Progress(step=0, total=10, epoch_steps=5)
DATA = DataSize(frames=1000, batch=8, total=100, epoch_steps=10)


def convolutional(width: int = 6, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, seed: int = 0) -> nn.Module:
    """[n, 3, S, S] -> [n, width]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, width, 3, stride=2), norm(width), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers)


class TinyNetworks(Networks):
    """Networks of `make`, which gives the same weights at each call."""

    seed = 0
    width = 6
    preprocessing = Preprocessing(size=(16, 16))

    def __init__(self, make: Callable[[], nn.Module] = convolutional, width: int = 6) -> None:
        self.make, self.width = make, width

    def student(self) -> nn.Module:
        return self.make()

    def teacher(self) -> nn.Module:
        return self.make()

    def frozen(self, name: str, expect: str | None) -> nn.Module:
        """A wider network with other weights, without a look at the name."""
        return convolutional(width=10, seed=7)


def build(config: MethodConfig, make: Callable[[], nn.Module] = convolutional, seed: int = 1, width: int = 6) -> Method:
    """The method with tiny networks, whose pooled features are `width` wide."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return config.build(TinyNetworks(make, width))


def some_views(config: MethodConfig, b: int = 4, seed: int = 0) -> Views:
    """Random views of the recipe; rows 100, 101, ..."""
    generator = torch.Generator().manual_seed(seed)
    recipe = config.recipe()
    crops = {
        name: torch.randn(b, group.count, 3, group.size, group.size, generator=generator)
        for name, group in recipe.groups.items()
    }
    seeds = np.random.default_rng(seed).integers(0, 2**32, (b, recipe.count), dtype=np.uint32)
    return Views(crops, torch.arange(100, 100 + b), seeds)
