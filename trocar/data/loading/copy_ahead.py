"""Batches that are copied to a GPU ahead of their use, without the host or the network waiting for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Extra = TypeVar("Extra")
Item = TypeVar("Item")
Batch = tuple[Extra, Sequence[Tensor]]


def pinned(images: Tensor, device: torch.device) -> Tensor:
    """`images` in memory that a GPU copies from by itself; as they are for a CPU."""
    return images.pin_memory() if device.type == "cuda" else images


def sent_ahead(batches: Iterable[Batch[Extra]], device: torch.device) -> Iterator[Batch[Extra]]:
    """The batches with their tensors on `device`, which on a GPU are copied while it computes with those before.

    Tensors should be pinned. They are handed out ready for the stream that is current then; one more batch is on its
    way.
    """
    if device.type != "cuda":
        for extra, tensors in batches:
            yield extra, [x.to(device) for x in tensors]
        return
    for (extra, moved), ready in one_ahead(_copied(batches, device)):
        current = torch.cuda.current_stream(device)
        current.wait_event(ready)
        for x in moved:
            x.record_stream(current)  # or its memory could be given out again while it is read there
        yield extra, moved


Copied = tuple[Batch[Extra], torch.cuda.Event]


def _copied(batches: Iterable[Batch[Extra]], device: torch.device) -> Iterator[Copied[Extra]]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for extra, tensors in batches:
        with torch.cuda.stream(stream):
            moved = [x.to(device, non_blocking=True) for x in tensors]
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(stream)
        yield (extra, moved), ready


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each handed out when the one behind it has been made: none of them is None."""
    held: Item | None = None
    for item in items:
        if held is not None:
            yield held
        held = item
    if held is not None:
        yield held
