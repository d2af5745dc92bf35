"""Shard files: copies on the machine's own disk, and the open ones that threads share.

For clusters whose file system is slow at many small reads from many jobs. What doesn't fit, or can't be written, is
read where it was: the batches are the same either way.

A descriptor that is closed while another thread reads from it may be another file's by then, so one that is in use is
only taken out of the table, and closed by the last thread that lets go of it.
"""

from __future__ import annotations

import os
import resource
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from trocar.core.files import own_disk, replacing
from trocar.core.messages import Say
from trocar.core.random import I64
from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.plan import Plan
from trocar.data.selection.selection import Selection
from trocar.errors import TrocarError

SPARE = 1 << 30
"""Bytes that stay free on the target: other jobs of the machine write there as well."""

SCANNED = 4096
"""Steps whose frames are looked up before the first one: seconds, where a whole run would be minutes."""

ASK_S = 1.0
AT_ONCE = 8
"""Shards that are copied at the same time: a network file system gives one reader a part of what it has."""


def place(stage_to: str, catalog: Catalog) -> Path:
    """The folder below `stage_to` for this catalog; $VARIABLES are those of the running job.

    Raises ConfigError for a variable that isn't set here.
    """
    return own_disk("data.stage_to", stage_to) / f"trocar-shards-{catalog.fingerprint[:16]}"


def copy(
    catalog: Catalog,
    shards: Sequence[int],
    target: Path,
    say: Say,
    spare: int = SPARE,
    stop: Callable[[], object] = lambda: False,
) -> None:
    """Copy those of `shards` that `target` lacks, the first ones where it has no room for all; says what it does.

    Several at a time; a copy has its name when it is whole. What is there already, from an earlier life of the job, is
    kept. `stop` is asked every second whether to leave it at what is there.
    """
    ended = threading.Event()

    def go_on() -> None:
        if ended.is_set():
            raise TrocarError("staging was stopped")

    missing = [shard for shard in shards if not _is_whole(catalog, shard, target)]
    try:
        target.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target).free
        sizes = np.cumsum([catalog.shard_bytes[shard] for shard in missing], dtype=np.int64)
        fitting = int(np.searchsorted(sizes, free - spare, side="right"))
        if fitting < len(missing):
            what = f"the {fitting} read first" if fitting else "not"
            say(
                f"{what} staged: {int(sizes[-1]) >> 20} MiB of shards, {free >> 20} MiB free in {target}; reading "
                f"{'the others' if fitting else 'them'} in place"
            )
            if not fitting:
                return
        need = int(sizes[fitting - 1]) if fitting else 0
        if fitting:
            say(f"staging {fitting} shards, {need >> 20} MiB, to {target}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            copies = [pool.submit(_copy_one, catalog, shard, target, go_on) for shard in missing[:fitting]]
            try:
                left = set(copies)
                while left and not stop():
                    left = wait(left, timeout=ASK_S, return_when=FIRST_EXCEPTION).not_done
                    for done in copies:
                        if done.done():
                            done.result()
                if left:
                    say("staging was stopped; what is there is kept")
                    return
            finally:
                ended.set()
                pool.shutdown(wait=False, cancel_futures=True)  # those that have begun end with their file, or soon
    except OSError as error:
        say(f"not staged: {error.filename or target}: {error.strerror or error}; reading shards in place")
        return
    say(f"staged {fitting} shards, {need >> 20} MiB, to {target}")


def present(catalog: Catalog, target: Path) -> dict[int, Path]:
    """Shard number -> its whole copy in `target`."""
    numbers = range(len(catalog.shard_paths))
    return {n: _copy_of(catalog, n, target) for n in numbers if _is_whole(catalog, n, target)}


def in_order_of_use(catalog: Catalog, plan: Plan, slots: I64, steps: range) -> list[int]:
    """Numbers of the shards whose frames the batch's places `slots` hold in these steps, in the order of the first one.

    Looks at the first SCANNED steps. What is read behind them follows in the order of the catalog: all that the
    selection has, if there are more steps.
    """
    everything = set(shards_of(catalog, plan.selection))
    found: dict[int, None] = {}
    for step in steps[:SCANNED]:
        found.update(dict.fromkeys(catalog.frames["shard"][plan.rows(step)[slots]].tolist()))
        if len(found) == len(everything):
            break
    return [*found, *(sorted(everything - found.keys()) if len(steps) > SCANNED else ())]


def shards_of(catalog: Catalog, selection: Selection) -> Iterator[int]:
    """Numbers of the shards that hold frames of the selection, ascending."""
    step = 1 << 20
    shards = np.zeros(len(catalog.shard_paths), bool)
    for pool in selection.pools:
        for start in range(0, len(pool.runs), step):
            index = np.arange(start, min(start + step, len(pool.runs)), dtype=np.int64)
            shards[catalog.frames["shard"][pool.runs.rows(index)]] = True
    return iter(np.flatnonzero(shards).tolist())


def _copy_of(catalog: Catalog, shard: int, target: Path) -> Path:
    return target / catalog.shard_paths[shard].name


def _copy_one(catalog: Catalog, shard: int, target: Path, go_on: Callable[[], None]) -> None:
    if catalog.store is not None:
        catalog.store.fetch(catalog.shard_names[shard], _copy_of(catalog, shard, target), go_on)
        return
    with replacing(_copy_of(catalog, shard, target)) as temporary:
        shutil.copyfile(catalog.shard_paths[shard], temporary)


def _is_whole(catalog: Catalog, shard: int, target: Path) -> bool:
    path = _copy_of(catalog, shard, target)
    return path.is_file() and path.stat().st_size == catalog.shard_bytes[shard]


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
