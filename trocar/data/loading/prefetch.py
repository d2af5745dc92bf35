"""What is made ahead of its use: an iterator in a thread of its own, a bounded number of items ahead, or several into
one; and views and batches on a GPU, in a stream beside the training's. The host never waits for the device here.

Tensors are allocated in the side stream. The training stream waits for the event recorded behind them, and the
allocator is told of their use there: without either, a view could be read before it is written, or overwritten while
it is read.
"""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from trocar.data.loading.batch import Batch, Crops
from trocar.data.loading.workers import Patience

Item = TypeVar("Item")

AHEAD = 1  # items that wait, besides the one being made; what stands behind has a queue of its own


class _End:
    """The last item: why there are no more."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Producer(Generic[Item]):
    """The thread's side."""

    def __init__(self, make: Callable[[], Iterator[Item]]) -> None:
        self.make = make
        self.items: queue.Queue[Item | _End] = queue.Queue(AHEAD)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="trocar-prefetch", daemon=True)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self.make():
                if not self._put(item):
                    return
        except BaseException as raised:
            error = raised
        self._put(_End(error))

    def _put(self, item: Item | _End) -> bool:
        while not self.stop.is_set():
            try:
                self.items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def close(self) -> None:
        """Let the thread end after the item it is at, and wait for it."""
        self.stop.set()
        self.thread.join()


def in_thread(make: Callable[[], Iterator[Item]], patience: Patience | None = None) -> Generator[Item, None, None]:
    """The items of `make()`, which is called in the thread too. What it raises is raised here, behind them.

    Closing or dropping the iterator ends the thread, but one that has outlasted the `patience`: it is stuck, so nobody
    waits for it. Raises TrocarError then.
    """
    producer = _Producer(make)
    # At the end of the program as well: a thread inside a native library while the interpreter goes away crashes it.
    atexit.register(producer.close)
    producer.thread.start()
    try:
        while not isinstance(item := _next(producer, patience), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        if patience is not None and patience.is_over:
            producer.stop.set()
        else:
            producer.close()
        atexit.unregister(producer.close)


def _next(producer: _Producer[Item], patience: Patience | None) -> Item | _End:
    if patience is None:
        return producer.items.get()
    patience.asked_for()
    while True:
        try:
            item = producer.items.get(timeout=patience.slice_s)
        except queue.Empty:
            patience.warn()
            patience.check()
        else:
            patience.came()
            return item


WAITING = 16
"""Items that wait to be taken, of all threads together."""


class _Ended:
    """A thread's last word: why it has ended, None where all is done."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def mixed(makes: Sequence[Callable[[], Iterator[Item]]], at_once: int) -> Generator[Item, None, None]:
    """The items of every `make()`, `at_once` of them at a time: each one's in its order, those of several mixed.

    What one of them raises is raised here, and the others end after the item that they are at.
    """
    left, lock = iter(makes), threading.Lock()
    items: queue.Queue[Item | _Ended] = queue.Queue(WAITING)
    stop = threading.Event()

    def put(item: Item | _Ended) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        error: BaseException | None = None
        try:
            while (make := _next_mixed(left, lock)) is not None:
                for item in make():
                    if not put(item):
                        return
        except BaseException as raised:
            error = raised
        put(_Ended(error))

    threads = [threading.Thread(target=work, name="trocar-several", daemon=True) for _ in range(at_once)]

    def close() -> None:
        stop.set()
        for thread in threads:
            thread.join()

    # At the end of the program as well: a thread inside a native library while the interpreter goes away crashes it.
    atexit.register(close)
    for thread in threads:
        thread.start()
    try:
        working = len(threads)
        while working:
            item = items.get()
            if not isinstance(item, _Ended):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                working -= 1
    finally:
        close()
        atexit.unregister(close)


def _next_mixed(
    left: Iterator[Callable[[], Iterator[Item]]], lock: threading.Lock
) -> Callable[[], Iterator[Item]] | None:
    with lock:
        return next(left, None)


Extra = TypeVar("Extra")
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
