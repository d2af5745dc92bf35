"""All statistics of a study, computed once for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from trocar.core.messages import Say
from trocar.report.shown_frames import KnownCases
from trocar.report.study_arms import Cell, arms_of, cells, design_of, labelled_cases, series
from trocar.study.results import Score, StudyResults
from trocar.study.statistics.contrasts import FLIPS, Contrast, ScoredTask, declared_contrasts
from trocar.study.statistics.crossed import ArmRanking, Crossed, Estimate, crossed, rank_over_tasks
from trocar.study.statistics.resample import Resampled
from trocar.study.statistics.scaling import LearningCurve, Scaling, learning_curve, scaling
from trocar.study.statistics.source_value import SourceValue, source_value

DRAWS = 1000
LEVEL = 0.05
SMALLER_IS_BETTER = ("ece", "brier")
"""Starts of the names of metrics that are errors."""


@dataclass(frozen=True)
class Compared:
    """One task under one protocol at the largest label budget: `scores` are all runs of it, `arms` the estimates by
    rank, best first; `metric` their name. `curves` only where there are several budgets. `value` and `scales`: what
    sources and sizes were worth, or the reason in words.
    """

    cell: Cell
    metric: str
    budget: str
    labelled: int
    scores: Sequence[Score]
    scored: ScoredTask[Any]
    arms: tuple[Estimate, ...]
    curves: tuple[LearningCurve, ...]
    value: SourceValue | str
    scales: tuple[Scaling, ...]

    @property
    def name(self) -> str:
        """`phase (knn)`."""
        return called(self.cell)

    @property
    def crossed(self) -> Crossed:
        """The resampled arms."""
        return self.scored.crossed

    @property
    def smaller_is_better(self) -> bool:
        """Whether the metric is an error."""
        return self.metric.startswith(SMALLER_IS_BETTER)


@dataclass(frozen=True)
class Analysis:
    """`contrasts`: the declared ones that could be tested, corrected together; `untested`: the others -> why.
    `ranking` only over several cells.
    """

    compared: tuple[Compared, ...]
    contrasts: tuple[Contrast, ...]
    untested: Mapping[tuple[str, str], str] = field(default_factory=dict)
    ranking: ArmRanking | None = None


def called(cell: Cell) -> str:
    """How a task with its protocol is called on the page."""
    return f"{cell[0]} ({cell[1]})"


def analyse(results: StudyResults, known: KnownCases, draws: int = DRAWS, say: Say = lambda _: None) -> Analysis:
    """Run everything on what has been scored so far; `say` gets a line for every step that takes long."""
    compared = []
    for cell, budgets in cells(results).items():
        runs = sum(map(len, budgets.values()))
        say(f"{called(cell)}: {runs} runs on {draws} draws of the test cases")
        compared.append(_compare(results, known, cell, budgets, draws))
    testable, untested = _testable(results, compared)
    family = len(testable) * len(compared)
    # With fewer swaps than this the level could not be reached whatever the scores are.
    flips = max(FLIPS, ceil(2 * family / LEVEL))
    say(f"tests of {family} declared comparisons")
    contrasts = declared_contrasts([one.scored for one in compared], testable, level=LEVEL, flips=flips)
    return Analysis(tuple(compared), tuple(contrasts), untested, _ranking(compared))


def _compare(
    results: StudyResults, known: KnownCases, cell: Cell, budgets: Mapping[str, Sequence[Score]], draws: int
) -> Compared:
    metric = results.measure(cell[0])
    tables = {
        budget: (arms := arms_of(results, scores), crossed(arms, metric, draws=draws))
        for budget, scores in budgets.items()
    }
    budget, scores = list(budgets.items())[-1]
    arms, table = tables[budget]
    name = results.metric(cell[0])
    estimates = [table.arm(arm.name, bounds_of(name)) for arm in arms]
    sign = 1.0 if name.startswith(SMALLER_IS_BETTER) else -1.0
    labelled = {budget: labelled_cases(results, scores) for budget, scores in budgets.items()}
    return Compared(
        cell=cell,
        metric=name,
        budget=budget,
        labelled=labelled[budget],
        scores=scores,
        scored=ScoredTask(called(cell), table, arms, metric),
        arms=tuple(sorted(estimates, key=lambda one: np.nan_to_num(sign * one.value, nan=np.inf))),
        curves=_curves({labelled[budget]: table for budget, (_, table) in tables.items()}, bounds_of(name)),
        value=_value(results, known, table, cell[0]),
        scales=tuple(scaling(table, one) for one in series(results, known, table.arms, cell[0])),
    )


def bounds_of(metric: str) -> tuple[float, float]:
    """The range of a metric, where it is known; edit scores and challenge scores have ranges of their own."""
    return (-np.inf, np.inf) if metric.startswith(("edit", "score")) else (0.0, 1.0)


def _curves(tables: Mapping[int, Crossed], bounds: tuple[float, float]) -> tuple[LearningCurve, ...]:
    if len(tables) < 2:
        return ()
    by_arm: dict[str, dict[int, Resampled]] = {}
    for labelled, table in tables.items():
        for name, arm in table.arms.items():
            by_arm.setdefault(name, {})[labelled] = arm
    return tuple(learning_curve(arm, budgets, bounds=bounds) for arm, budgets in by_arm.items())


def _value(results: StudyResults, known: KnownCases, table: Crossed, task: str) -> SourceValue | str:
    design = design_of(results, known, table.arms, task)
    return design if isinstance(design, str) else source_value(table, design)


def _testable(
    results: StudyResults, compared: Sequence[Compared]
) -> tuple[list[tuple[str, str]], dict[tuple[str, str], str]]:
    """The declared contrasts whose arms have a defined score everywhere, and the others with the reason."""
    testable, untested = [], {}
    for pair in results.contrasts:
        lacking = [
            f"{arm} has no score on {one.name}"
            for one in compared
            for arm in pair
            if arm not in one.crossed.arms or np.isnan(one.crossed[arm].value)
        ]
        if lacking:
            untested[pair] = lacking[0]
        else:
            testable.append(pair)
    return testable, untested


def _ranking(compared: Sequence[Compared]) -> ArmRanking | None:
    arms = {arm for one in compared for arm in one.crossed.arms}
    if len(compared) < 2 or len(arms) < 2 or not any(len(one.crossed.arms) == len(arms) for one in compared):
        return None
    reverse = [one.name for one in compared if one.smaller_is_better]
    return rank_over_tasks({one.name: one.crossed for one in compared}, smaller_is_better=reverse)
