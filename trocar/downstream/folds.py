"""Which cases train, which are kept for choices, and which test. No case is ever on two sides.

Label budgets: how many of the training cases may be used with their labels, and which ones a draw takes.

Published split lists by video number, and published budgets: lists of training videos that stand for a small data set.
The names and lists are those the field's code uses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from trocar.downstream.labels import LabelledFrames, LabelSpace
from trocar.downstream.metrics.outcome import Floats, Ints
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


CANDIDATES = 20


@dataclass(frozen=True)
class Budget:
    """How many training cases may be used with their labels: a number, a share such as `25%`, the name of a list that
    the data set publishes, or None for all; in as many `draws` as are wanted.
    """

    wanted: str | int | None = None
    draws: int = 1

    @property
    def words(self) -> str:
        """What tables say of it, '' where all labels are used."""
        if self.wanted is None:
            return ""
        cases = " training cases" if str(self.wanted).isdigit() else ""
        draws = f", {self.draws} draws" if self.draws > 1 else ""
        return f"labels of {self.wanted}{cases}{draws}"


ALL_LABELS = Budget()


def restrict(data: LabelledFrames, space: LabelSpace, fold: Fold, budget: str | int | None, draw: int) -> Fold:
    """The fold with only the training cases that draw number `draw` of the budget takes; None takes all.

    A published list of the data set (`data.budgets`) goes by its name. A number of cases, or a share of the fold's
    training cases (`25%`, rounded up), is drawn so that classes occur as in the whole: of 20 random sets that follow
    from `draw` the one that lacks the fewest classes, then the one whose class shares differ least; no draw
    takes the set of an earlier one. Validation cases
    of an official split are not part of the number; the result of an evaluation lists them with the labelled cases.
    Raises ConfigError for a budget that cannot be.
    """
    if budget is None:
        return fold
    case = data.frames["case"].to_numpy(str)
    cases = np.unique(case[fold.train])
    if str(budget) in data.budgets:
        chosen = _published(data, str(budget), draw, set(cases.tolist()))
    else:
        chosen = _drawn(data, space, fold, _count(data, str(budget), len(cases)), draw)
    return replace(fold, train=fold.train[np.isin(case[fold.train], sorted(chosen))])


def most_draws(data: LabelledFrames, budget: str | int | None, wanted: int) -> int:
    """How many different draws there are of a budget: one of no budget, and as many as its authors published."""
    if budget is None:
        return 1
    published = data.budgets.get(str(budget))
    return wanted if published is None else min(wanted, len(published))


def _published(data: LabelledFrames, name: str, draw: int, training: set[str]) -> set[str]:
    wanted = set(data.budgets[name][draw])
    gone = sorted(wanted - training)
    if gone:
        raise ConfigError(
            f"budget {name}, draw {draw}: case {gone[0]!r} is not among the training cases of {data.root}"
        )
    return wanted


def _count(data: LabelledFrames, budget: str, cases: int) -> int:
    share = budget.endswith("%")
    try:
        value = float(budget.removesuffix("%"))
    except ValueError:
        hint = nearest(budget, data.budgets)
        lists = f" or one of {', '.join(data.budgets)}" if data.budgets else ""
        raise ConfigError(
            f"budget = {budget!r}: expected a number of cases, a share such as 25%{lists}{hint}"
        ) from None
    count = math.ceil(value * cases / 100 - 1e-9) if share else int(value)
    if not 1 <= count <= cases or (not share and count != value):
        raise ConfigError(f"budget = {budget}: expected 1 to {cases} training cases, or a share up to 100%")
    return count


def _drawn(data: LabelledFrames, space: LabelSpace, fold: Fold, count: int, draw: int) -> set[str]:
    case = data.frames["case"].to_numpy(str)[fold.train]
    cases, number = np.unique(case, return_inverse=True)
    content = _class_counts(data, space, fold, number, len(cases))
    whole = content.sum(0)
    if draw >= math.comb(len(cases), count):
        most = math.comb(len(cases), count)
        raise ConfigError(f"draws: there are only {most} different sets of {count} of {len(cases)} training cases")
    taken: set[tuple[int, ...]] = set()
    best: tuple[int, ...] = ()
    for key in range(draw + 1):
        sets = _random_sets(len(cases), count, key, taken)
        best = min(sets, key=lambda chosen: _distance(content[list(chosen)].sum(0), whole))
        taken.add(best)
    return set(cases[list(best)].tolist())


def _random_sets(cases: int, count: int, key: int, taken: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Random sets that no earlier draw took, at least one; where there are few cases the same best one would win again
    and again, and draws that are equal look like a spread of 0.
    """
    # numpy's generator and not core.random: another one would draw other cases for the budgets of every study that was
    # run, docs/phantom-full among them. What a study drew is in its lock, should numpy ever draw otherwise.
    generator = np.random.Generator(np.random.Philox(key=key))
    found: list[tuple[int, ...]] = []
    tried = 0
    while tried < CANDIDATES or not found:
        tried += 1
        chosen = tuple(sorted(generator.permutation(cases)[:count].tolist()))
        if chosen not in taken:
            found.append(chosen)
    return found


def _class_counts(data: LabelledFrames, space: LabelSpace, fold: Fold, number: np.ndarray, cases: int) -> Floats:
    """Labelled frames per case and class, [cases, K]; for masks only the number of frames is known without reading
    them, [cases, 1].
    """
    values = data.frames[list(space.columns)].iloc[fold.train].to_numpy()
    if space.kind == "mask":
        onehot = np.ones((len(values), 1))
    elif space.kind == "multiclass":
        onehot = (values == np.arange(len(space.classes))).astype(np.float64)
    else:
        onehot = (values >= 0.5).astype(np.float64)
    content = np.zeros((cases, onehot.shape[1]))
    np.add.at(content, number, onehot)
    return content


def _distance(part: Floats, whole: Floats) -> tuple[int, float]:
    lacking = int(((part == 0) & (whole > 0)).sum())
    return lacking, float(np.abs(part / max(part.sum(), 1) - whole / max(whole.sum(), 1)).sum())


Draws = tuple[tuple[str, ...], ...]


def published_budgets(
    lists: Mapping[str, Sequence[Sequence[int]]], cases: Mapping[int, str]
) -> tuple[dict[str, Draws], list[str]]:
    """Lists of video numbers as lists of cases, and notes on those left out.

    `cases`: video number -> case, of the training videos that are here. A budget is kept only whole: a draw with a
    missing video would be another budget.
    """
    kept, notes = {}, []
    for name, draws in lists.items():
        missing = sorted({number for draw in draws for number in draw} - cases.keys())
        if missing:
            notes.append(f"budget {name} left out: training video {_few(missing)} not here")
        else:
            kept[name] = tuple(tuple(cases[number] for number in draw) for draw in draws)
    return kept, notes


def _few(numbers: Iterable[int]) -> str:
    first = [str(number) for number in numbers]
    return ", ".join(first[:5]) + (", ..." if len(first) > 5 else "")
