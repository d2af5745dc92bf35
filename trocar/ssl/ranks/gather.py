"""Tensors of all ranks, in rank order.

A bank of the latest samples of all ranks: keys of MoCo, embeddings of SwAV.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from lightly.utils.dist import gather as gather_with_gradient
from lightly.utils.dist import rank, world_size
from torch import Tensor

from trocar.errors import ConfigError
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


@torch.no_grad()
def push(rings: Sequence[Tensor], pushed: Tensor, new: Sequence[Tensor]) -> None:
    """Overwrite the oldest entries of rings [length, ...] with `new` [n, ...], in order; of more than fit, the last.

    The rings are of one length and move together. `pushed` int64[] counts what was ever put in: the next entry goes to
    place `pushed % length`, and the rings are full when `pushed >= length`. It is a tensor, so that it is in the
    checkpoint and the host need not wait for it.
    """
    length = len(rings[0])
    kept = min(length, len(new[0]))
    at = (pushed + torch.arange(kept, device=pushed.device)) % length
    for ring, values in zip(rings, new, strict=True):
        ring[at] = values[-kept:].to(ring.dtype)
    pushed.add_(kept)


def own_share(ring: Tensor) -> Tensor:
    """[length / ranks, ...]: every ranks-th entry of a ring that all ranks hold alike, beginning with this rank's.

    Raises ConfigError if the length does not divide.
    """
    length, ranks = len(ring), world_size()
    if length % ranks:
        raise ConfigError(f"method.queue: {length} does not divide by {ranks} ranks; {length + -length % ranks} would")
    return ring[rank() :: ranks]
