"""Batches of an epoch, made by worker processes for a GPU that trains."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import torch

from trocar.data.loading.patience import Patience
from trocar.data.loading.workers import from_workers

Item = TypeVar("Item")


def prepared(
    make: Callable[[int], Item], batches: int, workers: int, *, pin: bool = True
) -> Generator[Item, None, None]:
    """make(0), make(1), ... in order, in pinned memory. Nothing depends on the number of processes, torch's random
    numbers here neither: dropout takes them. Raises TrocarError as `from_workers`.
    """
    return from_workers(
        make,
        range(batches),
        workers,
        pin=pin,
        patience=Patience(0, 0, None),
        if_it_dies="Lower workers, the number of processes that prepare frames; 0 is none",
        generator=torch.Generator(),
    )
