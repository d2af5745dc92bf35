"""What is in a tar that others wrote, by WebDataset's rules, without reading more than its headers."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from trocar.data.media.folders import is_leftover
from trocar.data.media.input_file import RejectError
from trocar.errors import ConfigError

PICTURES = ("jpg", "jpeg", "png", "webp")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
MOST_JSON = 1 << 20
"""Bytes of a member of JSON that are read: what is longer is not what is known of a frame."""


@dataclass(frozen=True)
class Place:
    """Where a member's bytes are: `offset` and `size` in bytes."""

    offset: int
    size: int


@dataclass
class TarSample:
    """The members of one key, by their extension, such as `jpg` or `left.jpg`."""

    key: str
    members: dict[str, Place] = field(default_factory=dict)

    def pictures(self, extension: str | None) -> list[str]:
        """The extensions of its pictures: of `extension` alone, where it is given."""
        kinds = [name for name in self.members if name.rpartition(".")[2].lower() in PICTURES]
        return kinds if extension is None else [name for name in kinds if name == extension]


def expand(sources: Sequence[Path], out: Path) -> list[Path]:
    """The tar files that are meant: ranges such as `data-{000..009}.tar` in full, of a folder all tars below it but
    those in `out`.

    Raises ConfigError for one that is not there, is no tar or is compressed.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            below = sorted(path for path in source.rglob("*.tar") if not is_leftover(path.name))
            tars = [path for path in below if out.absolute() not in path.absolute().parents]
            if not tars:
                raise ConfigError(f"{source}: no .tar in it, and --in-place takes tars")
            found += tars
        else:
            found += [Path(text) for text in _ranges(str(source))]
    for path in found:
        _check(path)
    return list(dict.fromkeys(found))


def _ranges(text: str) -> Iterator[str]:
    match = _RANGE.search(text)
    if match is None:
        yield text
        return
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise ConfigError(f"{text}: the range {match[0]} is empty")
    width = len(match[1]) if match[1].startswith("0") else 0
    for number in range(first, last + 1):
        yield from _ranges(f"{text[: match.start()]}{number:0{width}d}{text[match.end() :]}")


def _check(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(2)
    if (kind := _COMPRESSED.get(start)) is not None:
        raise ConfigError(f"{path} is compressed ({kind}): nothing in it can be read by its place; unpack it first")
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError as error:
        raise ConfigError(f"{path}: not a tar ({error}); --in-place takes WebDataset shards") from None


def samples(path: Path) -> list[TarSample]:
    """The samples of a tar in the order of their first members. What is no regular file is passed over.

    A key is the member's path up to the first dot of its name. Raises RejectError for a tar that is damaged or ends
    early.
    """
    found: dict[str, TarSample] = {}
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isreg() or member.issparse() or is_leftover(name.name):
                    continue
                stem, _, extension = name.name.partition(".")
                key = str(name.with_name(stem)) if stem else ""
                if not key or not extension:
                    continue
                if member.offset_data + member.size > size:
                    raise RejectError("truncated", f"it ends within {member.name}")
                place = Place(member.offset_data, member.size)
                found.setdefault(key, TarSample(key)).members.setdefault(extension, place)
    except tarfile.TarError as error:
        raise RejectError("damaged", str(error)) from None
    return list(found.values())


def read_json(data: bytes) -> Mapping[str, Any]:
    """What a member of JSON says, nested objects by dotted names; empty for what is no object of JSON."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return dict(_flat(tree, "")) if isinstance(tree, dict) else {}


def _flat(tree: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value
