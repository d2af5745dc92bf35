"""A bank of the latest samples of all ranks: keys of MoCo, embeddings of SwAV."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightly.utils.dist import rank, world_size
from torch import Tensor

from trocar.errors import ConfigError


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
