"""Arms whose metric is a weighted mean over cases, so that every statistic is known in closed form."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from trocar.downstream.metrics.outcome import Floats, Outcome
from trocar.study.statistics.crossed import Crossed
from trocar.study.statistics.resample import Arm, Resampled


def outcome(row: npt.ArrayLike) -> Outcome:
    """One frame per case, whose score is the case's value."""
    values = np.asarray(row, dtype=np.float64)
    index = np.arange(len(values))
    return Outcome(index, index, values[:, None], index)


def case_mean(scored: Outcome, weights: Floats | None = None) -> float:
    column = scored.scores[:, 0]
    weights = np.ones(len(column)) if weights is None else weights
    return float(weights[scored.case] @ column / weights[scored.case].sum())


def arm(name: str, table: npt.ArrayLike, fixed: bool = False) -> Arm[Outcome]:
    """One run per seed; `table` is [seeds, cases]."""
    return Arm(name, tuple((outcome(row),) for row in np.asarray(table, dtype=np.float64)), fixed)


def known(name: str, values: npt.ArrayLike, case_error: float = 0.0, draws: int = 400, cases: int = 20) -> Resampled:
    """A resampled metric with these values per seed, and draws of cases that scatter by `case_error`, alike in every
    arm with one number of draws.
    """
    seeds = np.asarray(values, dtype=np.float64)
    scatter = case_error * np.random.default_rng(7).standard_normal(draws)
    return Resampled(name, seeds, seeds[:, None] + scatter, cases)


def scored(values: Mapping[str, npt.ArrayLike], case_error: float = 0.0) -> Crossed:
    """Arms by name with the values of their seeds."""
    return Crossed({name: known(name, seeds, case_error) for name, seeds in values.items()})
