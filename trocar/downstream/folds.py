"""Which cases train and which test. No case is ever on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.metrics.outcome import Ints
from trocar.errors import ConfigError, nearest

LEAVE_ONE_OUT, SPLIT, AUTO = "leave-one-case-out", "split", "auto"
MOST_CASES_LEFT_OUT_ONE_BY_ONE = 12
DEFAULT_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """Row numbers of the data set's table."""

    name: str
    train: Ints
    test: Ints


def make_folds(data: LabelledFrames, scheme: str, rows: Ints) -> tuple[str, list[Fold]]:
    """The scheme that is used, in words, and its folds over `rows` (the rows a task can use).

    `scheme` is `split` (train -> test of the data set's own split; `val` cases are not used),
    `leave-one-case-out`, a number k of folds grouped by case, or `auto`: `split` if the data set has one,
    else leave-one-case-out up to 12 cases, else 5 grouped folds. Raises ConfigError if the data set cannot be
    divided that way.
    """
    split = data.frames["split"].to_numpy(str)[rows]
    cases = data.frames["case"].to_numpy(str)[rows]
    count = len(np.unique(cases))
    if scheme == AUTO:
        few = LEAVE_ONE_OUT if count <= MOST_CASES_LEFT_OUT_ONE_BY_ONE else str(DEFAULT_FOLDS)
        scheme = SPLIT if {"train", "test"} <= set(split) else few
    if scheme == SPLIT:
        return "train -> test", [_split_fold(data, split, rows)]
    if count < 2:
        raise ConfigError(f"{data.root}: a single labelled case cannot be divided into training and test cases")
    if scheme == LEAVE_ONE_OUT:
        parts = LeaveOneGroupOut().split(rows, groups=cases)
        return LEAVE_ONE_OUT, _checked([Fold(str(cases[b[0]]), rows[a], rows[b]) for a, b in parts], data)
    k = _fold_count(scheme, count)
    parts = GroupKFold(k).split(rows, groups=cases)
    return f"{k} folds by case", _checked([Fold(f"fold {i}", rows[a], rows[b]) for i, (a, b) in enumerate(parts)], data)


def _split_fold(data: LabelledFrames, split: np.ndarray, rows: Ints) -> Fold:
    if not {"train", "test"} <= set(split):
        raise ConfigError(
            f"{data.root}: no labelled frames in both splits `train` and `test`; use --folds {LEAVE_ONE_OUT}"
        )
    return _checked([Fold("test", rows[split == "train"], rows[split == "test"])], data)[0]


def _fold_count(scheme: str, cases: int) -> int:
    if not scheme.isdigit():
        hint = nearest(scheme, [LEAVE_ONE_OUT, SPLIT, AUTO])
        raise ConfigError(f"folds = {scheme!r}: expected {AUTO}, {SPLIT}, {LEAVE_ONE_OUT} or a number{hint}")
    if not 2 <= int(scheme) <= cases:
        raise ConfigError(f"{scheme} folds of {cases} labelled cases: expected 2 to {cases}")
    return int(scheme)


def _checked(folds: list[Fold], data: LabelledFrames) -> list[Fold]:
    cases = data.frames["case"].to_numpy(str)
    for fold in folds:
        shared = set(cases[fold.train]) & set(cases[fold.test])
        if shared:
            raise ConfigError(f"{data.root}: case {sorted(shared)[0]!r} would be in training and test")
    return folds
