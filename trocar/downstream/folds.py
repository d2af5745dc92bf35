"""Which cases train, which are kept for choices, and which test. No case is ever on two sides.

Published split lists by video number. The names and lists are those the field's code uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from trocar.downstream.labels import LabelledFrames
from trocar.downstream.metrics.outcome import Ints
from trocar.errors import ConfigError, nearest

Split = Mapping[str, Iterable[int | str]]
"""`train`, `val`, `test` -> video numbers, or the names of cases."""

LEAVE_ONE_OUT, SPLIT, AUTO = "leave-one-case-out", "split", "auto"
TRAIN_TEST = "train -> test"
"""How the scheme of a data set's own split is called."""
MOST_CASES_LEFT_OUT_ONE_BY_ONE = 12
DEFAULT_FOLDS = 5
OFFICIAL, WITHIN, CARVED = "official", "within_budget", "carve_out"
VALIDATION = (AUTO, OFFICIAL, WITHIN, CARVED)
CARVED_SHARE = 5


@dataclass(frozen=True)
class Fold:
    """Row numbers of the data set's table; `val` is empty where a choice is made inside `train`."""

    name: str
    train: Ints
    val: Ints
    test: Ints


def make_folds(data: LabelledFrames, scheme: str, rows: Ints, validation: str = AUTO) -> tuple[str, list[Fold]]:
    """The scheme that is used, in words, and its folds over `rows` (the rows a task can use).

    `scheme` is `split` (train -> test of the data set's own split), `leave-one-case-out`, a number k of folds
    grouped by case, or `auto`: `split` if the data set has one, else leave-one-case-out up to 12 cases, else 5
    grouped folds. `validation`: `official` (the split's `val` cases), `within_budget` (choices are made inside the
    labelled training cases; `val` cases are used for nothing), `carve_out` (every fifth training case by name, taken
    out of training), or `auto`: official where the split has validation cases, else within_budget. Raises ConfigError
    if the data set cannot be divided that way.
    """
    if validation not in VALIDATION:
        hint = nearest(validation, VALIDATION)
        raise ConfigError(f"val = {validation!r}: expected {', '.join(VALIDATION)}{hint}")
    named, folds = _divide(data, scheme, rows)
    if validation == OFFICIAL and not all(len(fold.val) for fold in folds):
        raise ConfigError(f"{data.root}: {named} has no validation cases; use val=within_budget or val=carve_out")
    if validation in (WITHIN, CARVED):
        folds = [replace(fold, val=fold.val[:0]) for fold in folds]
    if validation == CARVED:
        folds = [_carve(data, fold) for fold in folds]
    return named, [_checked(fold, data) for fold in folds]


def _divide(data: LabelledFrames, scheme: str, rows: Ints) -> tuple[str, list[Fold]]:
    split = data.frames["split"].to_numpy(str)[rows]
    cases = data.frames["case"].to_numpy(str)[rows]
    count = len(np.unique(cases))
    if scheme == AUTO:
        few = LEAVE_ONE_OUT if count <= MOST_CASES_LEFT_OUT_ONE_BY_ONE else str(DEFAULT_FOLDS)
        scheme = SPLIT if {"train", "test"} <= set(split) else few
    if scheme == SPLIT:
        return TRAIN_TEST, [_split_fold(data, split, rows)]
    if count < 2:
        raise ConfigError(f"{data.root}: a single labelled case cannot be divided into training and test cases")
    none = rows[:0]
    if scheme == LEAVE_ONE_OUT:
        parts = LeaveOneGroupOut().split(rows, groups=cases)
        return LEAVE_ONE_OUT, [Fold(str(cases[b[0]]), rows[a], none, rows[b]) for a, b in parts]
    k = _fold_count(scheme, count)
    parts = GroupKFold(k).split(rows, groups=cases)
    return f"{k} folds by case", [Fold(f"fold {i}", rows[a], none, rows[b]) for i, (a, b) in enumerate(parts)]


def _split_fold(data: LabelledFrames, split: np.ndarray, rows: Ints) -> Fold:
    if not {"train", "test"} <= set(split):
        raise ConfigError(
            f"{data.root}: no labelled frames in both splits `train` and `test`; use --folds {LEAVE_ONE_OUT}"
        )
    return Fold("test", rows[split == "train"], rows[split == "val"], rows[split == "test"])


def _carve(data: LabelledFrames, fold: Fold) -> Fold:
    cases = data.frames["case"].to_numpy(str)[fold.train]
    names = np.unique(cases)
    if len(names) < 2:
        raise ConfigError(f"{data.root}: fold {fold.name!r} has a single training case: nothing can be carved out")
    held = np.isin(cases, names[CARVED_SHARE - 1 :: CARVED_SHARE] if len(names) >= CARVED_SHARE else names[-1:])
    return replace(fold, train=fold.train[~held], val=fold.train[held])


def _fold_count(scheme: str, cases: int) -> int:
    if not scheme.isdigit():
        hint = nearest(scheme, [LEAVE_ONE_OUT, SPLIT, AUTO])
        raise ConfigError(f"folds = {scheme!r}: expected {AUTO}, {SPLIT}, {LEAVE_ONE_OUT} or a number{hint}")
    if not 2 <= int(scheme) <= cases:
        raise ConfigError(f"{scheme} folds of {cases} labelled cases: expected 2 to {cases}")
    return int(scheme)


def _checked(fold: Fold, data: LabelledFrames) -> Fold:
    cases = data.frames["case"].to_numpy(str)
    sides = [set(cases[rows]) for rows in (fold.train, fold.val, fold.test)]
    shared = (sides[0] & sides[1]) | (sides[0] & sides[2]) | (sides[1] & sides[2])
    if shared:
        raise ConfigError(f"{data.root}: case {sorted(shared)[0]!r} would be on two sides of a fold")
    return fold


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
