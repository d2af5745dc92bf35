"""The tensors of all ranks in one, for losses over the global batch."""

from __future__ import annotations

import torch
from lightly.utils.dist import GatherLayer
from torch import Tensor

from trocar.ssl.distributed import is_distributed


def gather(x: Tensor) -> Tensor:
    """[n, ...] of each rank -> [ranks x n, ...] in rank order, with gradient; `x` itself without a process group.

    n and dtype are equal on all ranks. The gradient of a rank's slice is the *sum* over the ranks' losses;
    DistributedDataParallel then averages over ranks, so a loss that each rank takes of the whole batch is not scaled.
    Every rank has to run backward.
    """
    if not is_distributed():
        return x
    # NCCL takes contiguous tensors only.
    return torch.cat(GatherLayer.apply(x.contiguous()))


def gather_detached(x: Tensor) -> Tensor:
    """`gather` without gradient."""
    return gather(x.detach())
