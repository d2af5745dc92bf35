"""Several iterators at the same time, each in a thread of its own, into one."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

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
            while (make := _next(left, lock)) is not None:
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


def _next(left: Iterator[Callable[[], Iterator[Item]]], lock: threading.Lock) -> Callable[[], Iterator[Item]] | None:
    with lock:
        return next(left, None)
