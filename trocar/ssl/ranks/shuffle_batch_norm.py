"""Shuffling a batch between ranks and back, so that a key's batch statistics are not those of its query.

MoCo (He et al., arXiv 1911.05722, section 3.3). The permutation follows from (seed, step), where the reference code
draws one on rank 0 and broadcasts it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trocar.core.permutation import Permutation
from trocar.ssl.ranks.distributed import is_distributed
from trocar.ssl.ranks.gather import gather_detached, own_slice


@dataclass(frozen=True)
class ShuffledBatch:
    """`shuffled` [b, ...]: this rank's share of the permuted global batch."""

    shuffled: Tensor
    _order: Tensor

    @staticmethod
    def of(x: Tensor, seed: int, step: int) -> ShuffledBatch:
        """Exchange the samples of x [b, ...] between ranks; ranks have equally many. One rank keeps its order."""
        if not is_distributed():
            return ShuffledBatch(x, torch.arange(len(x), device=x.device))
        everyone = gather_detached(x)
        order = permutation(len(everyone), seed, step).to(x.device, non_blocking=True)
        return ShuffledBatch(everyone[order[own_slice(x)]], order)

    def restored(self, y: Tensor) -> Tensor:
        """What was computed of `shuffled`, [b, ...], for the samples that this rank had before."""
        if not is_distributed():
            return y
        back = torch.argsort(self._order)
        return gather_detached(y)[back[own_slice(y)]]


def permutation(n: int, seed: int, step: int) -> Tensor:
    """int64[n]: sample `order[i]` of the global batch goes to place i."""
    return torch.from_numpy(Permutation(n, seed, "shuffle_bn", step)(np.arange(n)))
