"""The folder of fetched weights: one folder a name, with the file and what is known of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from trocar.backbones.published.family import BACKBONES, Published
from trocar.core.files import sha256_of, user_cache, write_json_atomic
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
    """The published weights of that name. Raises ConfigError with the nearest one."""
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
