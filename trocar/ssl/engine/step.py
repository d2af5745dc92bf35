"""What a method is given at each step: views, and where the run stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trocar.data.loading.batch import Batch
from trocar.ssl.blocks.transformer_blocks import packed_features, packs


@dataclass(frozen=True)
class Progress:
    """Where the run stands: `step` of `total`, and how many steps make an epoch of the selection."""

    step: int
    total: int
    epoch_steps: int


@dataclass(frozen=True)
class Views:
    """What one rank sees of a (micro-)batch of b samples.

    `crops` {group: float32[b, n, 3, S, S]}, normalised; `rows` int64[b], the catalog rows of the anchor frames, by
    which equal frames are told; `mask_seed` uint32[b, V] on the host, a number per view from which masks are drawn.
    """

    crops: dict[str, Tensor]
    rows: Tensor
    mask_seed: npt.NDArray[np.uint32]

    @staticmethod
    def of(batch: Batch) -> Views:
        """The views of a rank's batch."""
        return Views(batch.views, torch.from_numpy(batch.rows), batch.params.mask_seed)

    def __getitem__(self, group: str) -> Tensor:
        return self.crops[group]

    @property
    def first(self) -> Tensor:
        """The first view of each sample, [b, 3, S, S]."""
        return next(iter(self.crops.values()))[:, 0]

    def split(self, parts: int) -> list[Views]:
        """Micro-batches, in order."""
        pieces = {name: x.chunk(parts) for name, x in self.crops.items()}
        rows, seeds = self.rows.chunk(parts), np.array_split(self.mask_seed, parts)
        return [Views({name: x[i] for name, x in pieces.items()}, rows[i], seeds[i]) for i in range(parts)]

    def to(self, device: torch.device) -> Views:
        """The same on a device; the host does not wait for the copy."""
        moved = {name: x.to(device, non_blocking=True) for name, x in self.crops.items()}
        return Views(moved, self.rows.to(device, non_blocking=True), self.mask_seed)


def by_view(
    network: Callable[[Tensor], Tensor],
    groups: Iterable[Tensor],
    head: Callable[[Tensor], Tensor] = lambda features: features,
) -> Tensor:
    """Outputs [V, b, ...] of all views of the groups [b, n, 3, S, S], in order.

    Views of one size pass network and head together; a network that packs views takes those of all sizes in one pass.
    """
    given = list(groups)
    out: list[list[Tensor]] = [[] for _ in given]
    by_size = [[i for i, x in enumerate(given) if x.shape[-1] == s] for s in dict.fromkeys(x.shape[-1] for x in given)]
    views = [torch.cat([given[i].transpose(0, 1) for i in same]) for same in by_size]
    flat = [x.flatten(0, 1) for x in views]
    features = iter(packed_features(network, flat)) if packs(network) else map(network, flat)
    for same, x, feature in zip(by_size, views, features, strict=True):
        output = head(feature)
        counts = [given[i].shape[1] for i in same]
        parts = torch.split(output.view(*x.shape[:2], *output.shape[1:]), counts)
        for i, part in zip(same, parts, strict=True):
            out[i].append(part)
    return torch.cat([part for parts in out for part in parts])
