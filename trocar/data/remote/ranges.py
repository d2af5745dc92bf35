"""Frames of remote shards: many range requests in flight, and whole blocks that stay on this machine's disk.

Under `shuffle: global` a frame is asked for alone, and read once an epoch. Under `window` the frames of many steps lie
beside each other, so blocks of the shards are fetched and kept, for all processes of the machine together.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from trocar.core.files import locked, write_atomic
from trocar.data.remote.store import Store

IN_FLIGHT = 32
"""Requests of one process at a time: an object store answers each in tens of milliseconds, and thousands at once."""
BLOCK = 4 << 20
"""Bytes that are fetched and kept together: some hundred frames."""

LOOK_EVERY = 32
"""After so many new blocks a process looks whether there are too many: that lists the whole folder."""

Range = tuple[int, int, int]
"""Number of the shard, first byte, number of bytes."""


class Blocks:
    """Blocks of shards in a folder of this machine, at most `limit` bytes of them; the ones used longest ago go first.

    Processes share the folder: a block is a file that is whole or not there.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._new = 0

    def __reduce__(self) -> tuple[type[Blocks], tuple[Path, int]]:
        return Blocks, (self.folder, self.limit)

    def get(self, name: str) -> bytes | None:
        """A block, or None."""
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep a block. A disk that has no room is no error: it is then fetched again."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / name, data)
            if self._new % LOOK_EVERY == 0:
                self._make_room()
            self._new += 1

    def _make_room(self) -> None:
        with locked(self.folder / ".lock"):
            files = []
            for entry in os.scandir(self.folder):
                with suppress(OSError):
                    if not entry.name.startswith("."):
                        files.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
            held = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if held <= self.limit:
                    return
                Path(path).unlink()
                held -= size


def blocks_of(cache: str | None, fingerprint: str, gib: float) -> Blocks:
    """The machine's blocks of a catalog, in the folder `cache` ($VARIABLES are expanded) or the system's temporary one."""
    place = Path(os.path.expandvars(cache)).expanduser() if cache else Path(tempfile.gettempdir())
    return Blocks(place / f"trocar-blocks-{os.getuid()}" / fingerprint[:16], int(gib * 2**30))


class Ranges:
    """Reads ranges of shards, those that were announced ahead of their use. Pickles without what is in flight."""

    def __init__(self, store: Store, names: Sequence[str], sizes: Sequence[int], blocks: Blocks | None = None) -> None:
        self.store, self.names, self.sizes, self.blocks = store, names, sizes, blocks
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[Range, Future[bytes]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Ranges], tuple[Store, Sequence[str], Sequence[int], Blocks | None]]:
        return Ranges, (self.store, self.names, self.sizes, self.blocks)

    def announce(self, ranges: Iterable[Range]) -> None:
        """What will be read next; what was announced before and not read is dropped."""
        with self._lock:
            dropped, self._coming = self._coming, {}
        for future in dropped.values():
            future.cancel()
        for one in ranges:
            for part in self._parts(one):
                self._request(part)

    def read(self, one: Range) -> bytes:
        """The bytes of a range; fewer where the shard ends. Raises TrocarError as `Store.read`."""
        if self.blocks is None:
            return self._result(one, keep=False)
        _, offset, size = one
        first = offset // BLOCK * BLOCK
        data = b"".join(self._result(part, keep=True) for part in self._parts(one))
        return data[offset - first : offset - first + size]

    def _parts(self, one: Range) -> list[Range]:
        """The requests that a range is made of: itself, or the blocks that it touches."""
        if self.blocks is None:
            return [one]
        shard, offset, size = one
        starts = range(offset // BLOCK * BLOCK, offset + max(size, 1), BLOCK)
        return [(shard, start, min(BLOCK, self.sizes[shard] - start)) for start in starts if start < self.sizes[shard]]

    def _request(self, part: Range) -> Future[bytes]:
        with self._lock:
            future = self._coming.get(part)
            if future is None:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(IN_FLIGHT, "trocar-range")
                future = self._coming[part] = self._pool.submit(self._fetched, part)
            return future

    def _result(self, part: Range, keep: bool) -> bytes:
        """`keep`: others will ask for the same, before the next announcement."""
        future = self._request(part)
        try:
            return future.result()
        finally:
            if not keep or future.exception() is not None:
                with self._lock:
                    self._coming.pop(part, None)

    def _fetched(self, part: Range) -> bytes:
        shard, start, size = part
        name = f"{shard}-{start}"
        if self.blocks is not None and (known := self.blocks.get(name)) is not None and len(known) == size:
            return known
        data = self.store.read(self.names[shard], start, start + size)
        if self.blocks is not None and len(data) == size:
            self.blocks.put(name, data)
        return data
