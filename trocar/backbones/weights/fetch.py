"""Download published weights into the store, whole or not at all. Nothing else of Trocar uses the network."""

from __future__ import annotations

import datetime
import hashlib
import http.client
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from trocar.backbones.published.base import Published
from trocar.backbones.published.convert import convert
from trocar.backbones.weights.checkpoint_file import read_checkpoint
from trocar.backbones.weights.weight_store import FetchedFile, read_record, root, verified, write_record
from trocar.core.files import locked, replacing, sha256_of
from trocar.errors import ConfigError, TrocarError

TIMEOUT = 30
BLOCK = 1 << 20
Progress = Callable[[int, int | None], None]


def fetch(entry: Published, origin: str | None = None, progress: Progress = lambda done, total: None) -> FetchedFile:
    """Put the weights of `entry` into the store, from `origin` (an address or a file) or the published address.

    The file is checked key by key before it is kept, and its sha256 recorded: later loads compare. Weights that are
    there already are only verified. `progress` is told bytes done and in all. Raises ConfigError where no address is
    known or the file is another model's, TrocarError for a failed download.
    """
    origin = origin or entry.url
    if origin is None:
        raise ConfigError(
            f"{entry.name} has no direct address. {entry.note} Then: trocar fetch {entry.name} --from FILE"
        )
    folder = root() / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        known = read_record(entry.name)
        if known is not None:
            digest = verified(folder / known.file, entry, known)
            if "://" not in origin and sha256_of(_existing(origin)) != digest:
                raise ConfigError(f"{entry.name} has another file already, {known.file}; delete {folder} to replace it")
            return known
        target = folder / _file_name(origin)
        with replacing(target) as temporary:
            digest = _copy(origin, temporary, progress)
            if entry.sha256 is not None and digest != entry.sha256:
                raise TrocarError(f"{origin} has sha256 {digest}, the published file {entry.sha256}: not kept")
            convert(entry, read_checkpoint(temporary, ending=target.suffix), origin)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = FetchedFile(target.name, target.stat().st_size, digest, origin, now)
        write_record(entry.name, record)
    return record


def _file_name(origin: str) -> str:
    path = urllib.parse.urlsplit(origin).path if "://" in origin else origin
    return Path(urllib.parse.unquote(path)).name or "weights.pth"


def _existing(origin: str) -> Path:
    if not Path(origin).is_file():
        raise ConfigError(f"--from {origin}: no such file")
    return Path(origin)


def _copy(origin: str, target: Path, progress: Progress) -> str:
    """Copy address or file to `target`; returns its sha256."""
    if "://" not in origin:
        origin = _existing(origin).resolve().as_uri()
    elif not origin.startswith(("https://", "http://")):
        raise ConfigError(f"--from {origin}: expected a file, https:// or http://")
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(origin, timeout=TIMEOUT) as source, target.open("wb") as file:
            length = source.headers.get("Content-Length")
            total = int(length) if length else None
            _check_space(target.parent, total)
            while block := source.read(BLOCK):
                file.write(block)
                digest.update(block)
                done += len(block)
                progress(done, total)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise TrocarError(
            f"{origin}: {reason}. Nothing was kept; run it where there is a network, or give a copy with --from FILE"
        ) from None
    if total is not None and done != total:
        raise TrocarError(
            f"{origin}: the connection ended after {done:,} of {total:,} bytes; run the same command again"
        )
    return digest.hexdigest()


def _check_space(folder: Path, needed: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise TrocarError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB free; set TROCAR_WEIGHTS"
        )
