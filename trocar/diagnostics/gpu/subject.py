"""What the checks share: the device, a folder, a catalog of textured frames, and loaders of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.order.plan import Plan
from trocar.data.selection.composition import Composition
from trocar.data.views.recipe import ViewPlan, ViewRecipe
from trocar.diagnostics.bench.recipe import DINO, MEAN, STD
from trocar.diagnostics.textured_frames import RECIPE, write_frames

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """The device under examination. On a CPU everything is `tiny`: the same code, in seconds."""

    device: torch.device
    folder: Path

    @property
    def tiny(self) -> bool:
        """Whether sizes are for a CPU."""
        return self.device.type == "cpu"

    @cached_property
    def catalog(self) -> Catalog:
        """2,048 frames of 854 x 480 and about 75 KB, of 60 pictures; on a CPU 64 small ones."""
        if (self.folder / "shards").exists():
            return Catalog.open(self.folder)
        if self.tiny:
            return write_frames(self.folder, count=8, rows=64)
        return write_frames(self.folder, count=60, rows=2048, width=854, height=480, quality=45)

    @property
    def recipe(self) -> ViewRecipe:
        """DINO's views; on a CPU small ones."""
        return RECIPE if self.tiny else DINO

    def loader(
        self,
        backend: Backend,
        batch: int,
        *,
        device: torch.device | None = None,
        workers: int = 0,
        recipe: ViewRecipe | None = None,
        hw_decoder_load: float = 0.0,
    ) -> Loader:
        """A loader of the whole catalog on `device`, default this one's."""
        selection = Composition(curate="none").resolve(self.catalog)
        plan, views = Plan(selection, batch, 0), ViewPlan(recipe or self.recipe, 0)
        where = device or self.device
        return Loader(
            plan,
            views,
            Reader(self.catalog),
            MEAN,
            STD,
            workers=workers,
            backend=backend,
            device=where,
            hw_decoder_load=hw_decoder_load,
        )
