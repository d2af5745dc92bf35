"""The folder of fetched weights: one folder a name, with the file and what is known of it; and the downloads into it,
whole or not at all. Nothing else of Trocar uses the network.
"""

from __future__ import annotations

import datetime
import hashlib
import http.client
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from trocar.backbones.published.convert import convert
from trocar.backbones.published.family import BACKBONES, Published
from trocar.backbones.published.unloadable import UNLOADABLE
from trocar.backbones.weights_file import SUFFIXES, read_checkpoint
from trocar.core.files import locked, replacing, sha256_of, user_cache, write_json_atomic
from trocar.errors import ConfigError, TrocarError, nearest

VARIABLE = "TROCAR_WEIGHTS"
RECORD = "record.json"


@dataclass(frozen=True)
class FetchedFile:
    """What was fetched: the file's name, size in bytes, sha256, where from, and when (UTC, ISO 8601)."""

    file: str
    bytes: int
    sha256: str
    origin: str
    fetched: str


def root() -> Path:
    """$TROCAR_WEIGHTS, else `trocar/weights` in the user's cache folder."""
    named = os.environ.get(VARIABLE)
    if named and Path(named).exists() and not Path(named).is_dir():
        raise ConfigError(f"{VARIABLE}={named} is not a folder")
    return Path(named) if named else user_cache() / "weights"


def entry(name: str) -> Published:
    """The published weights of that name. Raises ConfigError with the nearest one, and for weights that Trocar knows of
    but cannot load, which says why.
    """
    if name in UNLOADABLE:
        raise ConfigError(f"{name}: {UNLOADABLE[name]}")
    if name not in BACKBONES:
        hint = nearest(name, BACKBONES.names())
        raise ConfigError(f"no published weights {name!r}{hint}; `trocar fetch --list` has all of them")
    return BACKBONES.get(name)


def read_record(name: str) -> FetchedFile | None:
    """The record of fetched weights; None if they were not fetched. Raises TrocarError for a damaged one."""
    path = root() / name / RECORD
    try:
        return FetchedFile(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise TrocarError(f"{path} is damaged ({error}); delete {path.parent} and fetch again") from None


def write_record(name: str, record: FetchedFile) -> None:
    """Note what lies in the folder of `name`."""
    write_json_atomic(root() / name / RECORD, asdict(record))


def fetched_file(published: Published) -> tuple[Path, str]:
    """(path, sha256) of fetched weights, read through and compared with what was recorded.

    Raises ConfigError if they were not fetched, with the command that does; TrocarError if the file changed.
    """
    record = read_record(published.name)
    if record is None:
        raise ConfigError(
            f"the weights of {published.name} are not on this machine ({root() / published.name}). Fetch them where "
            f"there is a network: trocar fetch {published.name}   or name your own copy: {published.name}@/path/to/file"
        )
    path = root() / published.name / record.file
    return path, verified(path, published, record)


def is_published_file(published: Published, file: Path | None = None) -> bool:
    """Whether a file is known to be the published one; None: the fetched one, whose sha256 every load compares.

    It is if it has the sha256 of the entry, or of what was fetched from the entry's own address. That it fits by names
    and shapes says nothing of what it was trained on. Raises ConfigError if the file is not there.
    """
    record = read_record(published.name)
    if file is None and record is None:
        return True  # nothing can be loaded under the name before it is fetched
    trusted = {published.sha256} if published.sha256 else set()
    if record is not None and published.url is not None and record.origin == published.url:
        trusted.add(record.sha256)
    if file is None:
        return record is not None and record.sha256 in trusted
    return bool(trusted) and sha256_of(file) in trusted


def verified(path: Path, published: Published, record: FetchedFile | None = None) -> str:
    """sha256 of the file. Raises TrocarError if it is not the one that was published or fetched."""
    if not path.is_file():
        raise TrocarError(f"{path} is gone; run trocar fetch {published.name} again")
    digest = sha256_of(path)
    for expected, whose in ((published.sha256, "the published one"), (record.sha256 if record else None, "recorded")):
        if expected is not None and digest != expected:
            raise TrocarError(
                f"{path} has changed or was damaged: sha256 {digest[:16]}..., {whose} is {expected[:16]}...; "
                f"delete {path.parent} and run trocar fetch {published.name}"
            )
    return digest


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
        target = folder / _file_name(origin, entry.name)
        with replacing(target) as temporary:
            digest = _copy(origin, temporary, progress)
            digest = _unpacked(temporary, origin) or digest
            if entry.sha256 is not None and digest != entry.sha256:
                raise TrocarError(f"{origin} has sha256 {digest}, the published file {entry.sha256}: not kept")
            convert(entry, read_checkpoint(temporary, ending=target.suffix), origin)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = FetchedFile(target.name, target.stat().st_size, digest, origin, now)
        write_record(entry.name, record)
    return record


def _file_name(origin: str, name: str) -> str:
    """The file's own name, or NAME.pth where an address has none that ends as those of weights do."""
    if "://" not in origin:
        return Path(origin).name
    found = Path(urllib.parse.unquote(urllib.parse.urlsplit(origin).path)).name
    return found if found.endswith(SUFFIXES) else f"{name}.pth"


def _unpacked(path: Path, origin: str) -> str | None:
    """Replace an archive of one weight file by that file and return its sha256; None for what is no such archive.

    A torch file is a zip archive too, of tensors. Raises TrocarError for an archive of several weight files.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        inside = [one for one in archive.infolist() if one.filename.endswith(SUFFIXES)]
        if not inside:
            return None
        if len(inside) > 1:
            listed = ", ".join(one.filename for one in inside)
            raise TrocarError(f"{origin} is an archive of several weight files ({listed}); unpack it, and --from FILE")
        whole = path.with_name(f"{path.name}.unpacked")
        _check_space(path.parent, inside[0].file_size)
        try:
            with archive.open(inside[0]) as source, whole.open("wb") as file:
                shutil.copyfileobj(source, file, BLOCK)
            whole.replace(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise TrocarError(f"{origin}: {inside[0].filename} cannot be unpacked: {error}") from None
        finally:
            whole.unlink(missing_ok=True)
    return sha256_of(path)


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
