"""Open shards, shared by the threads that read them.

A descriptor that is closed while another thread reads from it may be another file's by then, so one that is in use is
only taken out of the table, and closed by the last thread that lets go of it.
"""

from __future__ import annotations

import os
import resource
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

RESERVE = 512  # descriptors for all else: batches of loader workers in shared memory, logs, libraries
MOST = 1 << 14


def open_shards(limit: int) -> int:
    """How many shards a process may keep open that may have `limit` files open (RLIM_INFINITY: any number)."""
    if limit == resource.RLIM_INFINITY:
        return MOST
    return min(MOST, max(limit - RESERVE, limit // 4))


@dataclass
class _Handle:
    descriptor: int
    users: int = 0
    wanted: bool = True


class ShardHandles:
    """Descriptors by shard number, closed when this goes. A copy of it (in another process) starts with none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, _Handle] = {}  # the one used longest ago first
        # A process that evaluates or trains many times over would run out of descriptors otherwise.
        weakref.finalize(self, _close_all, self._open)

    def __reduce__(self) -> tuple[type[ShardHandles], tuple[()]]:
        return ShardHandles, ()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def use(self, shard: int, path: Callable[[int], Path], most: int) -> Iterator[int]:
        """A descriptor of `path(shard)`, good until the end of the block; at most `most` unused ones stay open.

        Raises OSError where the file can't be opened.
        """
        handle = self._taken(shard)
        if handle is None:
            handle = self._opened(shard, path(shard), most)
        try:
            yield handle.descriptor
        finally:
            with self._lock:
                handle.users -= 1
                _close_if_done(handle)

    def forget(self, shard: int) -> None:
        """Have the shard opened anew at its next use."""
        with self._lock:
            self._drop(shard)

    def _taken(self, shard: int) -> _Handle | None:
        with self._lock:
            handle = self._open.pop(shard, None)
            if handle is not None:
                handle.users += 1
                self._open[shard] = handle
            return handle

    def _opened(self, shard: int, path: Path, most: int) -> _Handle:
        # Without the lock: on a network file system this is a round trip, and those of several threads overlap.
        descriptor = os.open(path, os.O_RDONLY)
        with self._lock:
            # Of two threads that open the same shard, the later one's stays.
            self._drop(shard)
            handle = self._open[shard] = _Handle(descriptor, users=1)
            unused = (number for number, other in self._open.items() if not other.users)
            for number in list(islice(unused, max(0, len(self._open) - most))):
                self._drop(number)
            return handle

    def _drop(self, shard: int) -> None:
        handle = self._open.pop(shard, None)
        if handle is not None:
            handle.wanted = False
            _close_if_done(handle)


def _close_all(handles: dict[int, _Handle]) -> None:
    while handles:
        os.close(handles.popitem()[1].descriptor)


def _close_if_done(handle: _Handle) -> None:
    if not handle.users and not handle.wanted:
        os.close(handle.descriptor)
