"""Published split lists by video number. The names and lists are those the field's code uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from trocar.downstream.datasets.base import Split
from trocar.errors import ConfigError, nearest

_RIVOIR_TEST = (7, 8, 11, 14, 19, 23, 26, 27, 28, 30, 33, 35, 40, 54, 57, 59, 63, 65, 67, 68)
CHOLEC80: dict[str, Split] = {
    "40-40": {"train": range(1, 41), "test": range(41, 81)},  # EndoNet
    "32-8-40": {"train": range(1, 33), "val": range(33, 41), "test": range(41, 81)},  # TMRNet; "cuhk" in DACAT
    "40-8-32": {"train": range(1, 41), "val": range(41, 49), "test": range(49, 81)},  # TeCNO, SelfSupSurg
    "rivoir-60-20": {  # Rivoir et al., also IIA-Net and CoStoDet (anticipation)
        "train": [video for video in range(1, 81) if video not in _RIVOIR_TEST],
        "test": _RIVOIR_TEST,
    },
}
# Training videos of EndoViT's few-shot experiments, three draws each.
CHOLEC80_ENDOVIT = {
    "endovit-2-videos": ((25, 1), (33, 11), (22, 40)),
    "endovit-4-videos": ((8, 28, 13, 4), (5, 17, 25, 31), (24, 28, 38, 15)),
    "endovit-8-videos": (
        (1, 22, 12, 8, 6, 33, 31, 29),
        (20, 38, 25, 7, 29, 4, 2, 24),
        (18, 28, 17, 2, 40, 36, 7, 34),
    ),
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


def here_of(name: str, lists: Mapping[str, Split], videos: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Split -> (how many videos of a published list are among `videos`, how many it has)."""
    here = set(videos)
    numbers = {_number(video) for video in here}
    counted = {
        split: [entry in here or entry in numbers for entry in entries] for split, entries in lists[name].items()
    }
    return {split: (sum(found), len(found)) for split, found in counted.items()}


def not_here(name: str, lists: Mapping[str, Split], videos: Iterable[str]) -> list[str]:
    """A note on the videos of a published list that are not among `videos`; none where all are."""
    here = set(videos)
    numbers = {_number(video) for video in here}
    notes = []
    for split, entries in lists[name].items():
        listed = list(entries)
        absent = [str(entry) for entry in listed if entry not in here and entry not in numbers]
        if absent:
            shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            notes.append(f"split {name}: {len(absent)} of {len(listed)} {split} videos are not here: {shown}")
    return notes


def _number(video: str) -> int:
    digits = re.findall(r"\d+", video)
    return int(digits[0]) if digits else -1
