"""Frames of remote shards: many range requests in flight, and whole blocks that stay on this machine's disk.

Under `shuffle: global` a frame is asked for alone, and read once an epoch. Under `window` the frames of many steps lie
beside each other, so blocks of the shards are fetched and kept, for all processes of the machine together.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from trocar.core.files import locked, own_disk, write_atomic
from trocar.data.remote.store import RemoteStore

IN_FLIGHT = 32
"""Requests of one process at a time: an object store answers each in tens of milliseconds, and thousands at once."""
BLOCK = 4 << 20
"""Bytes that are fetched and kept together: some hundred frames."""

SPARE = 1 << 30
"""Bytes of the disk that blocks leave free."""
LOOK_EVERY = 32
"""After so many new blocks a process looks whether there are too many: that lists the whole folder."""
LOCKS, PATIENCE_S = 64, 10.0
"""Files by which processes agree on who fetches a block, and how long one waits for another, which may be stopped."""

Range = tuple[int, int, int]
"""Number of the shard, first byte, number of bytes."""


class Blocks:
    """Blocks of shards in a folder of this machine, at most `limit` bytes of them; the ones used longest ago go first.

    Processes share the folder: a block is a file that is whole or not there. A disk without room, or a folder that
    others can reach, is no error: nothing is kept then.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._looked_at = -LOOK_EVERY
        self._put = 0

    def has(self, name: str, size: int) -> bool:
        """Whether a block of `size` bytes is kept; it then counts as used."""
        try:
            os.utime(self.folder / name)
            return (self.folder / name).stat().st_size == size
        except OSError:
            return False

    def read(self, name: str, start: int, size: int) -> bytes | None:
        """A part of a block, or None where it is not kept."""
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError:
            return None

    def put(self, name: str, data: bytes) -> bool:
        """Keep a block; returns whether it could be."""
        self._put += 1
        for is_second in (False, True):
            try:
                free = shutil.disk_usage(self.folder).free
                if is_second or free < SPARE + len(data) or self._put - self._looked_at >= LOOK_EVERY:
                    free += self._make_room(free, must=is_second)
                    self._looked_at = self._put
                if free >= SPARE + len(data):
                    write_atomic(self.folder / name, data, sync=False)
                    return True
            except OSError:
                continue
        return False

    def drop(self, name: str) -> None:
        """Let go of a block that turned out not to be what the store has."""
        with suppress(OSError):
            (self.folder / name).unlink()

    @contextmanager
    def fetching(self, name: str) -> Iterator[None]:
        """Within, no other process fetches the block, unless one takes longer than `PATIENCE_S`.

        Raises OSError where the folder can't be made, or is not the user's alone.
        """
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise PermissionError(f"{folder} is somebody else's")
            if found.st_mode & 0o077:
                folder.chmod(0o700)
        descriptor = os.open(self.folder / f".{zlib.crc32(name.encode()) % LOCKS}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + PATIENCE_S
        try:
            while not _taken(descriptor) and time.monotonic() < deadline:
                time.sleep(0.02)
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _make_room(self, free: int, must: bool) -> int:
        """Drop what is too much and an eighth of the rest; returns how many bytes that were. `must`: a write has found
        no room, whatever the disk says of it.
        """
        dropped = 0
        with locked(self.folder / ".lock"):
            files = []
            for entry in os.scandir(self.folder):
                with suppress(OSError):
                    if not entry.name.startswith("."):
                        files.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
            held = sum(size for _, size, _ in files)
            most = min(self.limit, held + free - SPARE)
            if held < most and not must:
                return 0
            most = min(most, held)
            for _, size, path in sorted(files):
                if held - dropped <= most - most // 8:
                    break
                with suppress(FileNotFoundError):
                    Path(path).unlink()
                dropped += size
        return dropped


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: every process fetches for itself
        return True
    return True


def blocks_of(cache: str | None, fingerprint: str, gib: float) -> Blocks:
    """The machine's blocks of a catalog, in the folder `cache` ($VARIABLES are expanded) or the system's temporary one.

    Raises ConfigError for a variable that isn't set here.
    """
    disk = Path(tempfile.gettempdir()) if cache is None else own_disk("data.cache_to", cache)
    return Blocks(disk / f"trocar-blocks-{os.getuid()}" / fingerprint[:16], int(gib * 2**30))


class Ranges:
    """Reads ranges of shards, those that were announced ahead of their use. For any number of threads.

    A forked process starts with nothing in flight, and with connections of its own.
    """

    def __init__(
        self, store: RemoteStore, names: Sequence[str], sizes: Sequence[int], blocks: Blocks | None = None
    ) -> None:
        self.store, self.names, self.sizes, self.blocks = store, names, sizes, blocks
        self._start()

    def __reduce__(self) -> tuple[type[Ranges], tuple[RemoteStore, Sequence[str], Sequence[int], Blocks | None]]:
        return Ranges, (self.store, self.names, self.sizes, self.blocks)

    def _start(self) -> None:
        self._pool = ThreadPoolExecutor(IN_FLIGHT, "trocar-range")  # no thread yet
        self._coming: dict[Range, Future[bytes | None]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def announce(self, ranges: Iterable[Range]) -> None:
        """What will be read next, in about that order; what was announced before and is not among it is dropped."""
        self._of_this_process()
        parts = list(dict.fromkeys(part for one in ranges for part in self._parts(one)))
        with self._lock:
            wanted = set(parts)
            for part in [part for part in self._coming if part not in wanted]:
                self._coming.pop(part).cancel()
        for part in parts:
            self._request(part)

    def read(self, one: Range, *, anew: bool = False) -> bytes:
        """The bytes of a range; fewer where the shard ends. `anew`: from the store itself, whatever is kept or coming.

        Raises TrocarError as `RemoteStore.read`.
        """
        self._of_this_process()
        shard, offset, size = one
        if anew:
            if self.blocks is not None:
                for part in self._parts(one):
                    self.blocks.drop(_block_name(part))
            return self.store.read(self.names[shard], offset, offset + size)
        if self.blocks is None:
            return self._result(one, keep=False) or b""
        return b"".join(self._inside(part, offset, offset + size) for part in self._parts(one))

    def _inside(self, part: Range, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a shard, as far as they lie in a block."""
        assert self.blocks is not None
        shard, start, size = part
        first, last = max(begin, start), min(end, start + size)
        whole = self._result(part, keep=True)
        if whole is not None:
            return whole[first - start : last - start]
        kept = self.blocks.read(_block_name(part), first - start, last - first)
        return self.store.read(self.names[shard], first, last) if kept is None else kept

    def _of_this_process(self) -> None:
        if self._process != os.getpid():
            self._start()

    def _parts(self, one: Range) -> list[Range]:
        """The requests that a range is made of: itself, or the blocks that it touches."""
        shard, offset, size = one
        if self.blocks is None:
            return [one]
        starts = range(offset // BLOCK * BLOCK, offset + max(size, 1), BLOCK)
        return [(shard, start, min(BLOCK, self.sizes[shard] - start)) for start in starts if start < self.sizes[shard]]

    def _request(self, part: Range) -> Future[bytes | None]:
        with self._lock:
            future = self._coming.get(part)
            if future is None:
                future = self._coming[part] = self._pool.submit(self._fetched, part)
            return future

    def _result(self, part: Range, keep: bool) -> bytes | None:
        """`keep`: others will ask for the same, before the next announcement."""
        future = self._request(part)
        try:
            return future.result()
        finally:
            if not keep or (future.done() and (future.cancelled() or future.exception() is not None)):
                with self._lock:
                    if self._coming.get(part) is future:
                        del self._coming[part]

    def _fetched(self, part: Range) -> bytes | None:
        """A range of the store; None for a block that is on the disk."""
        shard, start, size = part
        if self.blocks is None:
            return self.store.read(self.names[shard], start, start + size)
        name = _block_name(part)
        if self.blocks.has(name, size):
            return None
        try:
            with self.blocks.fetching(name):
                if self.blocks.has(name, size):
                    return None
                data = self.store.read(self.names[shard], start, start + size)
                return None if len(data) == size and self.blocks.put(name, data) else data
        except OSError:  # of the folder: the store raises others
            return self.store.read(self.names[shard], start, start + size)


def _block_name(part: Range) -> str:
    return f"{part[0]}-{part[1]}"
