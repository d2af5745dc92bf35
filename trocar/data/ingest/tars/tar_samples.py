"""What is in a tar that others wrote, by WebDataset's rules, without reading more than its headers.

Its keys and JSON say of a frame of which video and time it is, of whom, from where. A run can read a picture where it
lies if all decoders read it alike. They disagree about the order of colours, the way up and the chroma; what is left is
a baseline JPEG of 8 bits in YCbCr, 4:2:0, 4:2:2 or 4:4:4, upright.
"""

from __future__ import annotations

import json
import math
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, field_validator

from trocar.core.config import Config
from trocar.data.labelled_data import check_tag
from trocar.data.media.delivered_files import RejectError, is_leftover
from trocar.data.media.still import is_upright
from trocar.errors import ConfigError

NO_FIELD = "no metadata"
"""Reason of a rejection: what was asked for is not said of a frame."""


class TarFields(Config):
    """Fields of the JSON beside a picture (`a.b` for one within another), or groups of a regular expression on the key.

    Without `video` each picture is a still.
    """

    video: str | None = Field(default=None, description="field of the video's name; null: each picture is a still")
    time: str | None = Field(default=None, description="field of the time in seconds, or of a frame number")
    case: str | None = Field(default=None, description="field of the case id; null: each video or still is a case")
    source: str | None = Field(default=None, description="field of the data set; null: --source, or the tar's name")
    hospital: str | None = Field(default=None, description="field of the hospital")
    procedure: str | None = Field(default=None, description="field of the procedure")
    split: str | None = Field(default=None, description="field of the split's tag, or of a list of tags")
    key: str | None = Field(
        default=None,
        description="regular expression on the whole key, whose groups (video, time, case, source, hospital, "
        "procedure, split) say what no field is given for",
    )
    image: str | None = Field(
        default=None, description="extension of the picture, such as left.jpg; needed where a key has several"
    )

    @field_validator("key")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            groups = set(re.compile(value).groupindex) if value is not None else set()
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if strange := sorted(groups - set(SAID)):
            raise ValueError(f"group {strange[0]!r} is none of {', '.join(SAID)}")
        return value

    def of(self, name: str) -> bool:
        """Whether `name` (video, time, ...) is said by a field or by a group of the key."""
        return getattr(self, name) is not None or (self.key is not None and f"(?P<{name}>" in self.key)


SAID = ("video", "time", "case", "source", "hospital", "procedure", "split")


@dataclass(frozen=True)
class Said:
    """What is said of one frame; "" and None where nothing is asked for."""

    video: str
    time: float
    case: str
    source: str
    hospital: str
    procedure: str
    splits: tuple[str, ...]


def said_of(key: str, json: Mapping[str, Any], fields: TarFields) -> Said:
    """What key and JSON say of a frame. Raises RejectError where they do not say what is asked for."""
    match = re.fullmatch(fields.key, key) if fields.key is not None else None
    groups = match.groupdict() if match is not None else {}
    values: dict[str, Any] = {}
    for name in SAID:
        field = getattr(fields, name)
        value = json.get(field) if field is not None else groups.get(name)
        if value in (None, "") and fields.of(name):
            raise RejectError(NO_FIELD, f"its JSON has no {field!r}" if field else f"--wds-key does not match {key!r}")
        values[name] = value
    return Said(
        video=_text(values["video"]),
        time=_time(values["time"]),
        case=_text(values["case"]),
        source=_text(values["source"]),
        hospital=_text(values["hospital"]),
        procedure=_text(values["procedure"]),
        splits=_tags(values["split"]),
    )


def _text(value: Any) -> str:
    if isinstance(value, list | dict):
        raise RejectError(NO_FIELD, f"its JSON has {str(value)[:40]!r} where a name belongs")
    return "" if value is None else str(value)


def _time(value: Any) -> float:
    try:
        time = 0.0 if value is None else float(value)
    except (TypeError, ValueError):
        time = math.nan
    if not math.isfinite(time):
        raise RejectError(NO_FIELD, f"its time {str(value)[:40]!r} is not a number")
    return time


def _tags(value: Any) -> tuple[str, ...]:
    tags = tuple(str(tag) for tag in (value if isinstance(value, list) else [] if value is None else [value]))
    try:
        for tag in tags:
            check_tag(tag)
    except ValueError as error:
        raise RejectError(NO_FIELD, f"its split: {error}") from None
    return tags


_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BASELINE, _PROGRESSIVE, _SOS, _ADOBE = 0xC0, {0xC2, 0xC6, 0xCA, 0xCE}, 0xDA, 0xEE
_SAMPLINGS = ([0x22, 0x11, 0x11], [0x21, 0x11, 0x11], [0x11, 0x11, 0x11])
_KINDS = {b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


def unfit(data: bytes) -> str | None:
    """Why a picture cannot be read where it lies, in a few fixed words; None where it can.

    Of a JPEG that ends before its picture nothing is said: None, and `still.end_and_size` raises ValueError for it.
    """
    if data[:2] != b"\xff\xd8":
        return _KINDS.get(data[:4], "another format")
    position = 2
    frame = None
    colours = 1
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if marker == _SOS:
            break
        if marker in _SOF:
            frame = marker, body
        elif marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            colours = body[11]
        position += 2 + length
    if frame is None:
        return None
    return _unfit_frame(*frame, colours) or (None if is_upright(data) else "turned by EXIF")


def _unfit_frame(marker: int, header: bytes, colours: int) -> str | None:
    if marker in _PROGRESSIVE:
        return "progressive JPEG"
    if marker != _BASELINE:
        return "JPEG that is not baseline"
    if len(header) < 6 or header[0] != 8:
        return "JPEG of more than 8 bits"
    if header[5] != 3:
        return "grey JPEG" if header[5] == 1 else "CMYK JPEG"
    if colours == 0:
        return "RGB JPEG"
    return None if [header[at] for at in range(7, len(header), 3)] in _SAMPLINGS else "unusual chroma"


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
