"""Views made on a GPU in a stream beside the training's. The host never waits for the device here.

Tensors are allocated in the side stream. The training stream waits for the event recorded behind them, and the
allocator is told of their use there: without either, a view could be read before it is written, or overwritten while
it is read.

Batches that are copied to a GPU ahead of their use, without the host or the network waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from trocar.data.loading.batch import Batch, Crops

Extra = TypeVar("Extra")
Item = TypeVar("Item")
Tensors = tuple[Extra, Sequence[Tensor]]


def pinned(images: Tensor, device: torch.device) -> Tensor:
    """`images` in memory that a GPU copies from by itself; as they are for a CPU."""
    return images.pin_memory() if device.type == "cuda" else images


def sent_ahead(batches: Iterable[Tensors[Extra]], device: torch.device) -> Iterator[Tensors[Extra]]:
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


Copied = tuple[Tensors[Extra], torch.cuda.Event]


def _copied(batches: Iterable[Tensors[Extra]], device: torch.device) -> Iterator[Copied[Extra]]:
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


Augmented = Callable[[Crops], Batch]
Made = tuple[Batch, torch.cuda.Event]


def to_device(crops: Crops, device: torch.device) -> Crops:
    """The crops on `device`; from pinned memory the copy is asynchronous."""
    moved = {name: x.to(device, non_blocking=True) for name, x in crops.crops.items()}
    return Crops(crops.step, crops.frames, crops.params, moved, crops.bad)


def on_side_stream(source: Iterator[Crops], augmented: Augmented, device: torch.device) -> Generator[Batch, None, None]:
    """Views of host crops: copied and augmented one step ahead of the one handed out."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return handed_over(one_ahead(_made(source, augmented, device, stream)), device)


def produced(
    make: Callable[[], Iterator[Crops]], augmented: Augmented, device: torch.device
) -> Callable[[], Iterator[Made]]:
    """For a thread of its own: all of `make()` runs with a side stream as the current one."""

    def run() -> Iterator[Made]:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), torch.cuda.stream(stream):
            yield from _made(make(), augmented, device, stream)

    return run


def handed_over(made: Iterator[Made], device: torch.device) -> Generator[Batch, None, None]:
    """The batches, ready for the stream that is current when each is asked for.

    The time between the two events of `Batch.handed` is what the stream stood waiting for the views. Nothing here waits
    for them: they may be read once the stream is past both.
    """
    for batch, ready in made:
        current = torch.cuda.current_stream(device)
        asked, given = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        asked.record(current)
        current.wait_event(ready)
        given.record(current)
        for views in batch.views.values():
            views.record_stream(current)
        yield replace(batch, handed=(asked, given))


def _made(
    source: Iterator[Crops], augmented: Augmented, device: torch.device, stream: torch.cuda.Stream
) -> Iterator[Made]:
    for crops in source:
        with torch.cuda.stream(stream):
            batch = augmented(to_device(crops, device))
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(stream)
        yield batch, ready
