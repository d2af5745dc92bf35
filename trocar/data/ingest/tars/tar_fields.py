"""What the keys and the JSON of a foreign tar say of a frame: of which video and time it is, of whom, from where."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from trocar.core.config import Config
from trocar.core.splits import check_tag
from trocar.data.media.input_file import RejectError

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
