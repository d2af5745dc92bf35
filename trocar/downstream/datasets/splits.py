"""Published split lists by video number. The names and lists are those the field's code uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from trocar.downstream.datasets.base import Split
from trocar.errors import ConfigError, nearest

CHOLEC80: dict[str, Split] = {
    "40-40": {"train": range(1, 41), "test": range(41, 81)},  # EndoNet
    "32-8-40": {"train": range(1, 33), "val": range(33, 41), "test": range(41, 81)},  # SV-RCNet
    "40-8-32": {"train": range(1, 41), "val": range(41, 49), "test": range(49, 81)},  # TeCNO, SelfSupSurg
}


def published_split(name: str, lists: Mapping[str, Split], videos: Iterable[str]) -> dict[str, str]:
    """Video name -> `train`, `val` or `test`, by the number in the name or by the whole name; '' for videos the list
    does not have.

    Raises ConfigError for an unknown list.
    """
    if name not in lists:
        raise ConfigError(f"no published split {name!r}{nearest(name, lists)}; this data set has: {', '.join(lists)}")
    of = {entry: split for split, entries in lists[name].items() for entry in entries}
    return {video: of.get(video) or of.get(_number(video), "") for video in videos}


def _number(video: str) -> int:
    digits = re.findall(r"\d+", video)
    return int(digits[0]) if digits else -1
