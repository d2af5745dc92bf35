"""Files by address in an object store or on a web server: requests have a time limit and are repeated, up to a limit.

What the address begins with says how it is read (`s3://`, `https://` and all else that fsspec knows); credentials and
endpoints are those of this machine, as AWS's own tools or fsspec's configuration find them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar
from urllib.parse import quote

from pydantic import PlainValidator

from trocar.core.config import ADDRESS
from trocar.core.files import replacing
from trocar.errors import ConfigError, TrocarError, extra
from trocar.privacy.redaction import redact

ATTEMPTS = 7
FIRST_WAIT_S = 0.2
"""Behind the first failure, doubled behind each: 12.6 s in all, within which a store that restarts is back."""
FIRST_LIMIT_S, LAST_LIMIT_S = 5.0, 60.0
"""Seconds for the first attempt, doubled for each up to the last: of many requests a few hang or trickle, and the next
attempt is answered at once. Where all are slow, the later ones have time."""
SLOWEST = 1 << 20
"""Bytes a second that a request may take in addition."""
CHUNK = 8 << 20
"""Bytes of one request of a whole file."""

Result = TypeVar("Result")
Call = Callable[..., Any]
"""(method of fsspec's, its arguments but for the path) -> its result."""


def is_remote(place: object) -> TypeGuard[str]:
    """Whether it is an address such as `s3://bucket/shards`, and no folder of this machine."""
    return isinstance(place, str) and ADDRESS.match(place) is not None


def place_of(named: object) -> str | Path:
    """An address as it is, a folder as a path. Raises ValueError for what names neither."""
    if not isinstance(named, str | Path):
        raise ValueError("is neither a folder nor an address")
    return named if is_remote(named) else Path(named)


Place = Annotated[str | Path, PlainValidator(place_of)]
"""A folder of this machine, or the address of one in a store."""


def located(place: str | Path) -> str:
    """What finds the same from any working directory."""
    return str(place) if is_remote(place) else str(Path(place).absolute())


class MissingError(TrocarError):
    """A file that a store has not."""


class RemoteStore:
    """What lies below an address. Pickles as its address; threads and processes may share it.

    A file is named relative to the address, with slashes. Raises ConfigError for an address with credentials in it, and
    where the library that reads such addresses is missing.
    """

    def __init__(self, address: str) -> None:
        if redact(address) != address or "?" in address:
            raise ConfigError(
                f"{redact(address)}: an address is written into records and logs, so it may hold no credentials and no "
                f"query; give them as the store's own tools take them (~/.aws, ~/.netrc, AWS_* variables)"
            )
        protocol, _, rest = address.rstrip("/").partition("://")
        self.address = f"{protocol.lower()}://{rest}"
        self._start()

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str]]:
        return RemoteStore, (self.address,)

    def _start(self) -> None:
        self._filesystem: Any = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    def size(self, name: str) -> int:
        """Bytes of a file. Raises TrocarError as `read`."""
        return int(self._repeated(name, lambda call: call("info")["size"]))

    def version(self, name: str) -> str:
        """What changes with a file's content: its size, and its tag or date, or where there is neither its sha256.

        Raises TrocarError as `read`.
        """
        about = self._repeated(name, lambda call: dict(call("info")))
        tags = [str(about[key]) for key in _TAGS if about.get(key)]
        return f"{about['size']} {tags[0] if tags else hashlib.sha256(self.whole(name)).hexdigest()}"

    def read(self, name: str, start: int, end: int, go_on: Callable[[], None] = lambda: None) -> bytes:
        """Bytes start..end-1 of a file; fewer only where it ends before.

        `go_on` is called before each attempt; what it raises ends the reading. Raises TrocarError for a file that is
        not there, for a store that refuses or does not answer, and for a server that knows no ranges.
        """

        def request(call: Call) -> bytes:
            go_on()
            try:
                data = bytes(call("cat_file", start=start, end=end))
            except Exception as error:
                if _is_beyond(error) and call("info")["size"] <= start:
                    return b""
                raise
            if len(data) > end - start:
                raise TrocarError(
                    f"{self.address}/{name}: the server answers with {len(data)} bytes where {end - start} were "
                    f"asked for; it has to serve byte ranges (nginx, Apache and object stores do)"
                )
            if len(data) < end - start and start + len(data) < call("info")["size"]:
                raise ConnectionError(f"{len(data)} of {end - start} bytes came")
            return data

        return self._repeated(name, request, (end - start) / SLOWEST) if end > start else b""

    def whole(self, name: str) -> bytes:
        """All of a small file."""
        return self.read(name, 0, self.size(name))

    def fetch(self, name: str, into: Path, go_on: Callable[[], None] = lambda: None) -> None:
        """Copy a file to this machine's disk, where it has its name when it is whole; `go_on` as for `read`."""
        size = self.size(name)
        into.parent.mkdir(parents=True, exist_ok=True)
        with replacing(into) as temporary, temporary.open("wb") as file:
            for start in range(0, size, CHUNK):
                file.write(self.read(name, start, min(start + CHUNK, size), go_on))

    def _repeated(self, name: str, request: Callable[[Call], Result], more_s: float = 0.0) -> Result:
        """What `request` makes of the file's methods; each of its calls may take `more_s` seconds more than others."""
        path, last = f"{self.address}/{name}", ""
        asked = f"{self.address}/{quote(name)}" if self.address.startswith("http") else path
        for attempt in range(ATTEMPTS):
            if not threading.main_thread().is_alive():  # at the end of a program its threads are waited for
                raise TrocarError(f"{path} is not read any more: the program ends")
            try:
                limit_s = min(FIRST_LIMIT_S * 2**attempt, LAST_LIMIT_S) + more_s
                return request(partial(_call, self._files(), asked, limit_s))
            except (TrocarError, ConfigError):
                raise
            except FileNotFoundError as error:
                why = "" if asked in str(error) else f" ({redact(str(error))})"
                raise MissingError(f"{path} is missing{why}; copy it there again") from None
            except Exception as error:  # every protocol has its own: of aiohttp, botocore, asyncio, the system
                last = redact(f"{type(error).__name__}: {error}")
                if _is_refusal(error):
                    raise TrocarError(
                        f"{self.address}/{name}: the store refuses it ({last}); are the credentials that are found on "
                        f"this machine those of an account that may read it?"
                    ) from None
            if attempt < ATTEMPTS - 1:
                time.sleep(FIRST_WAIT_S * 2**attempt)
        raise TrocarError(
            f"cannot read {self.address}/{name} after {ATTEMPTS} attempts ({last}); is the store reachable from here?"
        )

    def _files(self) -> Any:
        if self._process != os.getpid():
            # A forked loader worker: fsspec's connections and the thread that serves them are the trainer's.
            self._start()
        with self._lock:
            if self._filesystem is None:
                self._filesystem = _filesystem(self.address)
            return self._filesystem


def _call(files: Any, path: str, limit_s: float, method: str, **arguments: Any) -> Any:
    """A method of fsspec's, ended after its time where the file system can be interrupted."""
    if not getattr(files, "async_impl", False):
        return getattr(files, method)(path, **arguments)
    from fsspec.asyn import sync

    return sync(files.loop, getattr(files, f"_{method}"), path, timeout=limit_s, **arguments)


_TAGS = ("ETag", "etag", "Content-MD5", "md5Hash", "Digest", "Last-Modified", "LastModified", "updated", "mtime")
"""What file systems of fsspec call that which changes with a file, the surest first."""
_UNUSABLE = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "InvalidConfigError", "NoRegionError")
"""botocore's words for a machine on which no request can be made."""


def _is_refusal(error: Exception) -> bool:
    status = getattr(error, "status", None)  # aiohttp's
    return isinstance(error, PermissionError) or status in (401, 403) or type(error).__name__ in _UNUSABLE


def _is_beyond(error: Exception) -> bool:
    """Whether a range was refused because the file ends before it."""
    return getattr(error, "status", None) == 416 or getattr(error, "errno", None) == errno.EINVAL


def _filesystem(address: str) -> Any:
    protocol = address.partition("://")[0]
    with extra("remote"):
        import fsspec

        try:
            files = fsspec.filesystem(protocol, **_limits(protocol))
        except ImportError as error:  # fsspec's sentence names the package
            ours = "; pip install 'trocar[remote]'" if protocol in ("s3", "http", "https") else ""
            raise ConfigError(f"{address}: {error}{ours}") from None
        except ValueError:
            known = "s3://, https:// and what else fsspec knows"
            raise ConfigError(f"{address}: {protocol}:// is no kind of store; there are {known}") from None
    if hasattr(files, "retries"):  # of s3fs: attempts are counted here
        files.retries = 1
    return files


def _limits(protocol: str) -> dict[str, Any]:
    if protocol in ("http", "https"):
        import aiohttp

        limit = aiohttp.ClientTimeout(total=LAST_LIMIT_S * 2)
        # Of what a server compresses on its way there are no ranges.
        plain = {"Accept-Encoding": "identity"}
        return {"client_kwargs": {"timeout": limit, "trust_env": True, "headers": plain}}
    if protocol in ("s3", "s3a"):
        return {"config_kwargs": {"max_pool_connections": 64, "retries": {"total_max_attempts": 1}}}
    return {}
