"""Files that are either the old version or the new one, whatever kills the writer."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from trocar.errors import ConfigError


def write_atomic(path: str | Path, data: bytes | str, *, sync: bool = True) -> None:
    """Replace `path` by `data` in one step (text as UTF-8); the folder must exist.

    The file is written under a temporary name in the same folder, fsynced, renamed, and the folder fsynced:
    after a crash `path` holds all of the old content or all of the new one. `sync=False` leaves the fsyncs
    out, for files that are worthless after a crash anyway (a heartbeat). Raises OSError.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        # Not mkstemp: its 0600 would hide the file from the group that shares the run folder.
        with temporary.open("xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a write that finds the disk full doesn't say where it wrote
        raise
    if sync:
        fsync_folder(path.parent)


def write_json_atomic(path: str | Path, value: Any, *, sync: bool = True) -> None:
    """`write_atomic` of `value` as indented JSON. Raises ValueError for NaN and infinities, which JSON cannot
    hold.
    """
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n", sync=sync)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, else removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that becomes `path` on success, for what is written in pieces by a library; an OSError of a write
    names `path`.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            yield file
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


class HashedFile:
    """A binary file that is written once, from its beginning to its end, and hashed on the way: it isn't read again.

    Has what `torch.save` asks of a file. `go_on` is called before each piece of a MiB; what it raises ends the writing.
    """

    _PIECE = 1 << 20

    def __init__(self, file: BinaryIO, go_on: Callable[[], None] = lambda: None) -> None:
        self._file, self._go_on, self._digest = file, go_on, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data` (contiguous); returns its size in bytes. Raises OSError, or what `go_on` raises."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), self._PIECE):
            self._go_on()
            piece = view[start : start + self._PIECE]
            self._file.write(piece)
            self._digest.update(piece)
        return len(view)

    def flush(self) -> None:
        """Hand over to the system what the file still holds."""
        self._file.flush()

    def sha256(self) -> str:
        """Of what has been written so far, in hex."""
        return self._digest.hexdigest()


def user_cache() -> Path:
    """Trocar's folder in the user's cache: $XDG_CACHE_HOME/trocar, else ~/.cache/trocar. It may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trocar"


def own_disk(key: str, named: str) -> Path:
    """The folder that the configuration's `key` names on this machine; $VARIABLES are those of the running job.

    Raises ConfigError for a variable that isn't set here.
    """
    expanded = os.path.expandvars(named)
    if "$" in expanded or not expanded:
        raise ConfigError(f"{key} = {named!r}: not set on this machine; name a folder of its own disk")
    return Path(expanded).expanduser()


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fsync_file(path: str | Path) -> None:
    """Make the content of a file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: str | Path) -> None:
    """Make renames and new names inside `folder` survive a power cut."""
    # Some network file systems refuse fsync on a folder; there the rename is all there is.
    with suppress(OSError):
        fsync_file(folder)


def fsync_tree(folder: Path) -> None:
    """Make a folder with all its files and folders survive a power cut."""
    for path in folder.rglob("*"):
        fsync_folder(path) if path.is_dir() else fsync_file(path)
    fsync_folder(folder)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold an exclusive `flock` on the file `path` (created if absent, never deleted) for a few milliseconds'
    work.

    The kernel frees the lock when its process dies, so it can't be left behind. Where a file system has no
    locks the block runs without: every caller must stay correct, only with a wider race, in that case.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Unlocked, not only closed: a process forked meanwhile holds a copy of the descriptor, and with it the lock.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
