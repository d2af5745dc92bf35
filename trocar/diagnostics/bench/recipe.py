"""What all contenders are given: DINO's views, and our loader set up for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.batch import Batch
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.order.plan import Plan
from trocar.data.selection.composition import Composition
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DINO = ViewRecipe(
    groups={
        "global": ViewGroup(count=2, size=224, scale=(0.4, 1.0), blur=[1.0, 0.1], solarize=[0.0, 0.2]),
        "local": ViewGroup(count=8, size=96, scale=(0.05, 0.4), blur=0.5),
    }
)
"""The defaults of DINO's reference code. Its command for a ResNet-50 parts the crops at 0.14 of the area."""


def scattered(index: int, rows: int) -> int:
    """The row that a reference reads as its `index`-th: all over the catalog, the same in every trial."""
    return (index * 7919) % rows  # a prime


def our_batches(backend: Backend, catalog: Path, workers: int, batch: int, device: str = "cpu") -> Iterator[Batch]:
    """Batches of our loader without end, every frame of the catalog in the composition."""
    opened = Catalog.open(catalog)
    selection = Composition(curate="none").resolve(opened)
    plan, views, reader = Plan(selection, batch, 0), ViewPlan(DINO, 0), Reader(opened)
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)
    loader = Loader(plan, views, reader, MEAN, STD, workers=workers, backend=backend, device=where)
    return loader.iterate(0, 1 << 30)
