"""Tensors of all ranks, in rank order."""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightly.utils.dist import gather as gather_with_gradient
from torch import Tensor

from trocar.ssl.ranks.distributed import is_distributed


def gather(x: Tensor) -> Tensor:
    """[b, ...] of each rank -> [ranks b, ...], with gradient: what every rank's loss sends back is summed.

    DistributedDataParallel divides by the number of ranks, so a mean over each rank's samples gets the gradient of the
    mean over all. Ranks have equally many.
    """
    return torch.cat(list(gather_with_gradient(x.contiguous()))) if is_distributed() else x


@torch.no_grad()
def gather_detached(x: Tensor) -> Tensor:
    """The same without gradient."""
    if not is_distributed():
        return x.detach()
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def own_slice(x: Tensor) -> Tensor:
    """int64[b]: where this rank's samples x [b, ...] stand among those of all ranks."""
    rank = dist.get_rank() if is_distributed() else 0
    return torch.arange(rank * len(x), (rank + 1) * len(x), device=x.device)
