"""Learning curve over label budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trocar.downstream.metrics.outcome import Floats
from trocar.errors import TrocarError
from trocar.study.statistics.crossed import Estimate, estimate
from trocar.study.statistics.resample import Resampled, combine
from trocar.study.statistics.result import Result


@dataclass(frozen=True)
class LearningCurve(Result):
    """`points` of one arm at `labelled` cases, rising. `area` is the mean height of the curve over log(labelled
    cases), in units of the metric (trapezoids); None for a single budget.
    """

    arm: str
    labelled: tuple[int, ...]
    points: tuple[Estimate, ...]
    area: Estimate | None


def learning_curve(
    arm: str,
    budgets: Mapping[int, Resampled],
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> LearningCurve:
    """The curve of an arm from its metric at each number of labelled cases (validation included).

    All budgets must have been resampled with the same draws of the same test cases. Where all have the same number of
    seeds, seed s is taken to be one pretraining at every budget, so that the area has its luck once; otherwise seeds
    count as independent between budgets. `bounds` is the range of the metric.

    Raises TrocarError for no budget, one below 1, or budgets with different draws.
    """
    labelled = sorted(budgets)
    if not labelled or labelled[0] < 1:
        raise TrocarError(f"a learning curve needs budgets of at least one labelled case, got {labelled}")
    if len({(part.cases, part.drawn.shape[1]) for part in budgets.values()}) > 1:
        raise TrocarError(f"{arm}: budgets were resampled with different draws or test cases; use the same for all")
    points = tuple(estimate(f"{arm} at {n}", [(1.0, budgets[n])], level, bounds) for n in labelled)
    return LearningCurve(arm, tuple(labelled), points, _area(arm, budgets, level, bounds) if points[1:] else None)


def area_weights(labelled: list[int]) -> Floats:
    """Weight of each point in the mean height over log(labelled cases); they add up to 1."""
    gaps = np.diff(np.log(np.array(labelled, dtype=np.float64)))
    weights: Floats = np.convolve(gaps, [0.5, 0.5]) / gaps.sum()
    return weights


def _area(arm: str, budgets: Mapping[int, Resampled], level: float, bounds: tuple[float, float]) -> Estimate:
    labelled = sorted(budgets)
    parts = list(zip(area_weights(labelled).tolist(), (budgets[n] for n in labelled), strict=True))
    name = f"{arm}, area under the curve"
    if len({part.seeds for _, part in parts}) == 1:
        parts = [(1.0, combine(name, parts))]
    return estimate(name, parts, level, bounds)
