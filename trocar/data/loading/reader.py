"""Catalog rows -> checked JPEG bytes, by `pread` at the catalog's offsets, or by range requests to a store.

Bad content (a wrong checksum, a JPEG that is not whole or not of the catalog's size, one that doesn't decode) is
replaced by the plan's rule, counted and reported; a read error of the file system is retried and then stops the run,
because silence there would change the data.

Frames of a step read by several threads at once, and handed out in the order in which they are asked for.

Reading and the checksum of a frame release the interpreter, and on a network file system every frame is a round trip.
What is delivered is what one thread would have delivered: a frame that can't be used fails when its turn comes, by the
error with which it was read, and a row that no thread got to is read at that moment.
"""

from __future__ import annotations

import os
import resource
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trocar.core.random import I64
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.shard_files import ShardHandles, open_shards
from trocar.data.media.still import Jpeg, frame_size
from trocar.data.remote.ranges import Blocks, Range, Ranges
from trocar.data.selection.plan import Plan
from trocar.errors import TrocarError

RETRIES = 4
OPEN_SHARDS = open_shards(resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # per process
MAX_REPLACEMENTS = 32
MAX_BYTES = 1 << 28  # of a frame: what a catalog says beyond is not read into memory
MAX_PIXELS = 64_000_000  # of a frame: a larger one is a decompression bomb, not a surgical video


@dataclass(frozen=True)
class BadRow:
    """A row whose content can't be used, and why."""

    row: int
    reason: str


class BadContentError(Exception):
    """The bytes of a row are not what was ingested."""


Read = Callable[[int], Jpeg]
"""Catalog row -> its JPEG, as `Reader.read`."""


class Reader:
    """Reads frames of a catalog, in any number of threads. Keeps the last shards open; cheap to pickle.

    `known_bad`: rows found bad earlier in this run, replaced without being read, so that a resumed run sees the same
    stream even if the file was repaired meanwhile. `staged`: copies of shards on this machine's own disk, by number.
    `blocks`: where blocks of remote shards are kept; None: each frame is asked for alone.
    """

    def __init__(
        self,
        catalog: Catalog,
        known_bad: frozenset[int] = frozenset(),
        staged: Mapping[int, Path] | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        self.catalog = catalog
        self.known_bad = known_bad
        self.staged = dict(staged or {})
        self.blocks = blocks
        self._handles = ShardHandles()
        self._ranges: Ranges | None = None
        if catalog.store is not None:
            self._ranges = Ranges(catalog.store, catalog.shard_names, catalog.shard_bytes, blocks)

    def knowing(self, bad: Collection[int]) -> Reader:
        """This reader, which knows `bad` as well. It takes the open shards with it, so this one opens its own anew."""
        reader = Reader(self.catalog, self.known_bad.union(bad), self.staged, self.blocks)
        reader._handles, self._handles = self._handles, ShardHandles()
        reader._ranges = self._ranges
        return reader

    def read(self, row: int) -> bytes:
        """The JPEG bytes of a row, whole and of the catalog's size by their markers.

        Raises BadContentError for bytes that differ from the catalog, TrocarError if they can't be read.
        """
        return bytes(self._checked(row, None))

    def read_into(self, row: int, into: memoryview) -> Jpeg:
        """`read` into memory of the size that the catalog says, which no allocation is needed for."""
        return self._checked(row, into)

    def _checked(self, row: int, into: memoryview | None) -> Jpeg:
        frames = self.catalog.frames
        shard, offset, size = self._place(row)
        if not self._can_be(shard, offset, size):
            raise BadContentError(f"the catalog puts it at byte {offset} of shard {shard}, {size} bytes long")
        data = self._pread(shard, offset, size, into)
        if self._ranges is not None and shard not in self.staged and zlib.crc32(data) != int(frames["crc32"][row]):
            # A block on this machine's disk, or a transfer, may be damaged where the store is not.
            data = _placed(self._ranges.read((shard, offset, size), anew=True), into)
        if len(data) != size:
            raise BadContentError(f"shard ends {size - len(data)} bytes early")
        if zlib.crc32(data) != int(frames["crc32"][row]):
            raise BadContentError("checksum differs from the catalog")
        _check(data, int(frames["width"][row]), int(frames["height"][row]))
        return data

    @property
    def asks_ahead(self) -> bool:
        """Whether frames come from a store, so that `order` is glad to hear what is read behind them."""
        return self._ranges is not None

    def order(self, rows: I64, behind: I64 | None = None) -> list[int]:
        """Samples of int64[b, F] in the order in which their anchors lie; who reads them is told what will be read.

        A store is asked for all of it at once, and for int64[c, F] rows that are read behind it. The kernel's advice
        turns one round trip per frame of a network file system into overlapping ones; on a local disk it costs a system
        call per frame. It is given for as many shards as stay open until they are read: opening one twice would cost
        more than the advice brings.
        """
        shard, offset = self.catalog.frames["shard"][rows], self.catalog.frames["offset"][rows]
        order: list[int] = np.lexsort((offset[:, 0], shard[:, 0])).tolist()
        if self._ranges is not None:
            coming = rows[order].ravel().tolist() + ([] if behind is None else behind.ravel().tolist())
            self._ranges.announce(self._place(row) for row in coming if self._is_asked_for(row))
        in_order = shard[order].ravel()
        _, first = np.unique(in_order, return_index=True)
        stays = in_order.size if first.size <= OPEN_SHARDS else int(np.sort(first)[OPEN_SHARDS])
        for row in rows[order].ravel()[:stays].tolist():
            self._advise(row)
        return order

    def deliver(
        self,
        plan: Plan,
        step: int,
        slot: int,
        row: int,
        use: Callable[[int, Jpeg], object],
        read: Read | None = None,
    ) -> tuple[int, list[BadRow]]:
        """Hand a usable frame to `use(row, jpeg)` for (step, slot), starting with `row`.

        `use` raises BadContentError if it can't decode; `read` is what to read with, `self.read` if None. Returns the
        delivered row and the rows found bad on the way.
        """
        bad: list[BadRow] = []
        for attempt in range(MAX_REPLACEMENTS):
            if self.take(row, use, bad, read):
                return row, bad
            row = plan.replacement(step, slot, attempt)
        found = "; ".join(f"row {b.row}: {b.reason}" for b in bad[:3])
        raise TrocarError(
            f"{MAX_REPLACEMENTS} frames in a row are unusable ({found}); the shards differ from the catalog: "
            f"ingest again, or restore them from where they were copied"
        )

    def take(self, row: int, use: Callable[[int, Jpeg], object], bad: list[BadRow], read: Read | None = None) -> bool:
        """Hand a frame to `use(row, jpeg)` if it is usable; if it is newly found not to be, `bad` gets it."""
        if row in self.known_bad:
            return False
        try:
            use(row, (read or self.read)(row))
        except BadContentError as error:
            bad.append(BadRow(row, str(error)))
            return False
        return True

    def _pread(self, shard: int, offset: int, size: int, into: memoryview | None) -> Jpeg:
        if self._ranges is not None and shard not in self.staged:
            return _placed(self._ranges.read((shard, offset, size)), into)
        path = self._path(shard)
        for attempt in range(RETRIES):
            try:
                with self._handles.use(shard, self._path, OPEN_SHARDS) as handle:
                    return _read_all(handle, offset, size) if into is None else _read_into(handle, offset, into)
            except FileNotFoundError:
                raise TrocarError(f"shard {path} is missing; restore it or run `trocar ingest` again") from None
            except OSError as error:
                os_error = error
                self._handles.forget(shard)
                if attempt < RETRIES - 1:
                    time.sleep(0.1 * 4**attempt)
        raise TrocarError(f"cannot read {path} after {RETRIES} attempts: {os_error}; is the file system healthy?")

    def _path(self, shard: int) -> Path:
        return self.staged.get(shard) or self.catalog.shard_paths[shard]

    def _place(self, row: int) -> Range:
        frames = self.catalog.frames
        return int(frames["shard"][row]), int(frames["offset"][row]), int(frames["size"][row])

    def _can_be(self, shard: int, offset: int, size: int) -> bool:
        """Whether there can be a frame there."""
        return 0 <= shard < len(self.catalog.shard_names) and offset >= 0 and 0 <= size <= MAX_BYTES

    def _is_asked_for(self, row: int) -> bool:
        """Whether a store is, for a row that lies where there can be one."""
        place = self._place(row)
        return self._can_be(*place) and place[0] not in self.staged and row not in self.known_bad

    def _advise(self, row: int) -> None:
        if self._ranges is not None and int(self.catalog.frames["shard"][row]) not in self.staged:
            return
        if row in self.known_bad or not hasattr(os, "posix_fadvise"):
            return
        shard, offset, size = self._place(row)
        try:
            with self._handles.use(shard, self._path, OPEN_SHARDS) as handle:
                os.posix_fadvise(handle, offset, size, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # only advice: the read itself retries, and says what is wrong


def _placed(data: bytes, into: memoryview | None) -> Jpeg:
    """`data`, or the part of `into` that it fills."""
    if into is None:
        return data
    into[: len(data)] = data
    return into[: len(data)]


def _read_all(handle: int, offset: int, size: int) -> bytes:
    """Fewer than `size` bytes only at the end of the file: one read may return a part on a network file system."""
    parts = []
    while size > 0 and (part := os.pread(handle, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _read_into(handle: int, offset: int, into: memoryview) -> memoryview:
    """The part of `into` that the file could fill."""
    done = 0
    while done < len(into) and (count := os.preadv(handle, [into[done:]], offset + done)):
        done += count
    return into[:done]


def _check(data: Jpeg, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadContentError(f"{width}x{height} is more than {MAX_PIXELS} pixels")
    try:
        found = frame_size(data)
    except ValueError as error:
        raise BadContentError(f"is not a whole JPEG: it {error}") from None
    if found != (width, height):
        raise BadContentError(f"is {found[0]}x{found[1]}, the catalog says {width}x{height}")


def sizes(catalog: Catalog, rows: I64) -> tuple[I64, I64]:
    """Widths and heights of the frames of `rows`, int64 of the same shape."""
    return catalog.frames["width"][rows].astype("int64"), catalog.frames["height"][rows].astype("int64")


READERS = 8


class ReadAhead:
    """`threads` readers, the calling thread among them. Close it when it isn't needed any more.

    They read into memory that is used again for the next rows: allocating it for every frame takes as long as reading
    from the page cache.
    """

    def __init__(self, threads: int = READERS) -> None:
        self.threads = threads
        self._others = ThreadPoolExecutor(max(1, threads - 1), "trocar-reader")
        self._room = np.empty(0, np.uint8)

    def __call__(self, reader: Reader, rows: Iterable[int]) -> Read:
        """Read `rows`, in about their order; returns what to call instead of `reader.read`, for any row.

        What that returns is overwritten by the next call of this.
        """
        wanted = [row for row in dict.fromkeys(rows) if row not in reader.known_bad]
        found: dict[int, Jpeg | Exception] = {}
        left, broken = iter(list(zip(wanted, self._places(reader, wanted), strict=True))), False

        def work() -> None:
            nonlocal broken
            for row, place in left:  # shared: a row goes to one thread
                if broken:
                    return
                try:
                    found[row] = reader.read_into(row, place)
                except BadContentError as error:
                    found[row] = error
                except Exception as error:
                    # The run is about to stop: a file system that fails would fail for each of the rows behind, slowly.
                    found[row], broken = error, True

        others: list[Future[None]] = []
        try:
            with suppress(RuntimeError):  # at the end of the program there are no new threads; this one reads it all
                for _ in range(min(self.threads, len(wanted)) - 1):
                    others.append(self._others.submit(work))
            work()
        except BaseException:
            broken = True
            raise
        finally:
            for other in others:
                other.result()

        def read(row: int) -> Jpeg:
            result = found.get(row)
            if isinstance(result, Exception):
                raise result
            return reader.read(row) if result is None else result

        return read

    def close(self) -> None:
        """End the threads."""
        self._others.shutdown()

    def _places(self, reader: Reader, rows: list[int]) -> list[memoryview]:
        size = reader.catalog.frames["size"][rows].astype(np.int64)
        size[(size < 0) | (size > MAX_BYTES)] = 0  # refused before it is read
        end = np.cumsum(size)
        if end.size and end[-1] > self._room.size:
            self._room = np.empty(2 * end[-1], np.uint8)
        room = self._room.data
        return [room[a:b] for a, b in zip((end - size).tolist(), end.tolist(), strict=True)]
