"""What both backends start from: step -> this rank's rows, parameters and frames. And what they make: uint8 crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trocar.data.counter import I64
from trocar.data.plan import Plan
from trocar.data.reader import BadRow, Reader, sizes
from trocar.data.views import ViewParams, ViewPlan, ViewRecipe
from trocar.errors import ConfigError

Use = Callable[[int, int, bytes, ViewParams], None]
"""What to do with a usable frame: (index in this rank's slice, catalog row, JPEG, parameters of that sample alone)."""


@dataclass(frozen=True)
class Delivered:
    """What became of a step: `rows` int64[b] as delivered, `params` of b samples, the rows found bad by slot."""

    step: int
    rows: I64
    params: ViewParams
    bad: list[BadRow]


@dataclass(frozen=True)
class Crops:
    """This rank's slice of a step before augmentation: `crops` {group: uint8[b, n, 3, S, S]}."""

    step: int
    rows: I64
    params: ViewParams
    crops: dict[str, Tensor]
    bad: list[BadRow] = field(default_factory=list)

    def pin_memory(self) -> Crops:
        """The same in page-locked memory, from which a GPU copies by itself; a DataLoader looks for this method."""
        pinned = {name: crops.pin_memory() for name, crops in self.crops.items()}
        return Crops(self.step, self.rows, self.params, pinned, self.bad)


@dataclass(frozen=True)
class Steps:
    """One rank's share of every step."""

    plan: Plan
    views: ViewPlan
    reader: Reader
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.plan.batch % self.world:
            raise ConfigError(f"batch {self.plan.batch} does not divide by {self.world} ranks; change one of them")

    @property
    def recipe(self) -> ViewRecipe:
        """The views of a sample."""
        return self.views.recipe

    @property
    def batch(self) -> int:
        """Samples b of this rank."""
        return self.plan.batch // self.world

    def deliver(self, step: int, use: Use) -> Delivered:
        """Hand every frame of the step to `use`, in the order in which they lie in the shards.

        A bad frame is replaced by the plan's rule; `use` raises BadContentError for one it can't decode.
        """
        slots = np.arange(self.rank * self.batch, (self.rank + 1) * self.batch, dtype=np.int64)
        rows = self.plan.rows(step)[slots, 0]
        params = self.views.params(step, slots, *sizes(self.reader.catalog, rows))
        found: dict[int, list[BadRow]] = {}
        for index in self.reader.order(rows):
            slot, row = int(slots[index]), int(rows[index])
            hand = self._hand(step, slot, index, row, params, use)
            rows[index], found[index] = self.reader.deliver(self.plan, step, slot, row, hand)
        return Delivered(step, rows, params, [bad for index in sorted(found) for bad in found[index]])

    def _hand(
        self, step: int, slot: int, index: int, planned: int, params: ViewParams, use: Use
    ) -> Callable[[int, bytes], None]:
        def hand(row: int, jpeg: bytes) -> None:
            if row != planned:  # a stand-in gets boxes of its own size
                size = sizes(self.reader.catalog, np.array([row]))
                params.assign(index, self.views.params(step, np.array([slot]), *size))
            use(index, row, jpeg, params.samples(slice(index, index + 1)))

        return hand


def empty_crops(recipe: ViewRecipe, batch: int) -> dict[str, Tensor]:
    """Room for the crops of `batch` samples: {group: uint8[batch, n, 3, S, S]}."""
    return {
        name: torch.empty((batch, group.count, 3, group.size, group.size), dtype=torch.uint8)
        for name, group in recipe.groups.items()
    }
