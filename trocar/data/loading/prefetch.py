"""Run an iterator in a thread of its own, a bounded number of items ahead.

Several iterators at the same time, each in a thread of its own, into one.
"""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Generic, TypeVar

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
