"""What the data path hands on: a step's crops, and its views."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from trocar.core.random import I64
from trocar.data.loading.reader import BadRow
from trocar.data.views.recipe import ViewParams


@dataclass(frozen=True)
class Crops:
    """This rank's slice of a step before augmentation: `crops` {group: uint8[b, n, 3, S, S]} of rows int64[b, F]."""

    step: int
    frames: I64
    params: ViewParams
    crops: dict[str, Tensor]
    bad: list[BadRow] = field(default_factory=list)

    @property
    def rows(self) -> I64:
        """int64[b]: the anchors."""
        return self.frames[:, 0]

    def pin_memory(self) -> Crops:
        """The same in page-locked memory, from which a GPU copies by itself; a DataLoader looks for this method."""
        pinned = {name: crops.pin_memory() for name, crops in self.crops.items()}
        return Crops(self.step, self.frames, self.params, pinned, self.bad)


@dataclass(frozen=True)
class Batch:
    """This rank's slice of a step: `rows` int64[b] as delivered, `views` {group: float32[b, n, 3, S, S]}.

    `neighbours` int64[b, F - 1] are the rows of the other frames of each sample, None for F = 1. `handed`: of views
    made in a stream beside the training's, when that one came to where it needs them, and when it had them.
    """

    step: int
    rows: I64
    views: dict[str, Tensor]
    params: ViewParams
    bad: list[BadRow] = field(default_factory=list)
    neighbours: I64 | None = None
    handed: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
