"""Files by address in an object store or on a web server: requests have a time limit and are repeated, up to a limit.

What the address begins with says how it is read (`s3://`, `https://` and all else that fsspec knows); credentials and
endpoints are those of this machine, as AWS's own tools or fsspec's configuration find them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trocar.core.files import replacing
from trocar.errors import ConfigError, TrocarError, extra
from trocar.privacy.redaction import redact

ATTEMPTS = 7
FIRST_WAIT_S = 0.2
"""Behind the first failure, doubled behind each: 12.6 s in all, within which a store that restarts is back."""
CONNECT_S, ANSWER_S = 10.0, 30.0
"""Seconds for a connection, and between two pieces of an answer: a request that hangs is repeated."""
CHUNK = 8 << 20
"""Bytes of one request of a whole file."""

_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://")
Result = TypeVar("Result")


def is_remote(place: str | Path) -> bool:
    """Whether it is an address such as `s3://bucket/shards`, and no folder of this machine."""
    return isinstance(place, str) and _ADDRESS.match(place) is not None


class Store:
    """What lies below an address. Pickles as its address; threads and processes may share it.

    A file is named relative to the address, with slashes. Raises ConfigError where the library that reads such
    addresses is missing.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.shown = redact(self.address)
        self._filesystem: Any = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.address,)

    def size(self, name: str) -> int:
        """Bytes of a file. Raises TrocarError as `read`."""
        return int(self._repeated(name, lambda files, path: files.info(path)["size"]))

    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes start..end-1 of a file; fewer only where it ends before.

        Raises TrocarError for a file that is not there, for a store that refuses or does not answer, and for a server
        that knows no ranges.
        """

        def request(files: Any, path: str) -> bytes:
            data = bytes(files.cat_file(path, start=start, end=end))
            if len(data) > end - start:
                raise TrocarError(
                    f"{self.shown}/{name}: the server answers with {len(data)} bytes where {end - start} were "
                    f"asked for; it has to serve byte ranges (nginx, Apache and object stores do)"
                )
            if len(data) < end - start and start + len(data) < files.info(path)["size"]:
                raise ConnectionError(f"{len(data)} of {end - start} bytes came")
            return data

        return self._repeated(name, request) if end > start else b""

    def whole(self, name: str) -> bytes:
        """All of a small file."""
        return self.read(name, 0, self.size(name))

    def fetch(self, name: str, into: Path) -> None:
        """Copy a file to this machine's disk, where it has its name when it is whole."""
        size = self.size(name)
        into.parent.mkdir(parents=True, exist_ok=True)
        with replacing(into) as temporary, temporary.open("wb") as file:
            for start in range(0, size, CHUNK):
                file.write(self.read(name, start, min(start + CHUNK, size)))

    def _repeated(self, name: str, request: Callable[[Any, str], Result]) -> Result:
        path, last = f"{self.address}/{name}", ""
        for attempt in range(ATTEMPTS):
            try:
                return request(self._files(), path)
            except (TrocarError, ConfigError):
                raise
            except FileNotFoundError:
                raise TrocarError(
                    f"{self.shown}/{name} is missing; copy it there again, or run `trocar ingest` again"
                ) from None
            except PermissionError as error:
                raise TrocarError(
                    f"{self.shown}/{name}: the store refuses it ({redact(str(error))}); are this machine's credentials "
                    f"those of an account that may read it?"
                ) from None
            except Exception as error:  # every protocol has its own: of aiohttp, botocore, asyncio, the system
                last = redact(f"{type(error).__name__}: {error}")
            if attempt < ATTEMPTS - 1:
                time.sleep(FIRST_WAIT_S * 2**attempt)
        raise TrocarError(
            f"cannot read {self.shown}/{name} after {ATTEMPTS} attempts ({last}); is the store reachable from here?"
        )

    def _files(self) -> Any:
        with self._lock:
            if self._filesystem is None:
                self._filesystem = _filesystem(self.address)
            return self._filesystem


def _filesystem(address: str) -> Any:
    protocol = address.partition("://")[0]
    with extra("remote"):
        import fsspec

        try:
            return fsspec.filesystem(protocol, **_limits(protocol))
        except ImportError as error:  # fsspec's sentence names the package
            raise ConfigError(f"{redact(address)}: {error}; pip install 'trocar[remote]'") from None
        except ValueError:
            known = "s3://, https:// and what else fsspec knows"
            raise ConfigError(f"{redact(address)}: {protocol}:// is no kind of store; there are {known}") from None


def _limits(protocol: str) -> dict[str, Any]:
    if protocol in ("http", "https"):
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S)
        return {"client_kwargs": {"timeout": limit, "trust_env": True}}
    if protocol in ("s3", "s3a"):
        limits = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "max_pool_connections": 64}
        return {"config_kwargs": {**limits, "retries": {"max_attempts": 1}}}
    return {}
