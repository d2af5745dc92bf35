"""One ingest per shards folder at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trocar.errors import TrocarError

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def only_one(root: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold ROOT/ingest.lock. The kernel lets go of it when the process dies, however that happens.

    `shared`: parts of one ingest hold it together, and keep a whole one out.

    Raises TrocarError, naming pid and host, while another process holds it.
    """
    descriptor = os.open(root / "ingest.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise TrocarError(f"{root}: {_holder(descriptor)} is writing here; wait or stop it") from None
            if error.errno not in _UNSUPPORTED:
                raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        tree = json.loads(os.pread(descriptor, 4096, 0))
        return f"another ingest (process {tree['pid']} on {tree['host']})"
    except (ValueError, KeyError, TypeError):
        return "another ingest"
