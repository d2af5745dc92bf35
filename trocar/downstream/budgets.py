"""Label budgets: how many operations may be used with their labels, and which ones a draw takes.

Published label budgets: lists of training videos that stand for a small data set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trocar.downstream.folds import Fold
from trocar.downstream.labels import LabelledFrames, LabelSpace
from trocar.downstream.metrics.outcome import Floats
from trocar.errors import ConfigError, nearest

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
