"""Bootstrap over cases: frames of one operation are not independent, so whole operations are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from trocar.downstream.metrics.outcome import Floats


class HasCases(Protocol):
    """Predictions that belong to cases, numbered from 0."""

    @property
    def cases(self) -> int:
        """Number of cases."""


Predicted = TypeVar("Predicted", bound=HasCases)


def bootstrap_interval(
    metric: Callable[[Predicted, Floats | None], float],
    outcomes: list[Predicted],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of `metric`, averaged over `outcomes` (the seeds of one arm, all on the same
    cases).

    Each draw takes as many cases as there are, with replacement, the same ones for every seed and, with one
    `seed`, for every arm. Draws on which the metric is undefined are left out. None for fewer than 3 cases,
    no draws, or a metric that is undefined on all of them.
    """
    cases = outcomes[0].cases
    if cases < 3 or draws == 0:
        return None
    generator = np.random.Generator(np.random.Philox(key=seed))
    drawn = generator.multinomial(cases, np.full(cases, 1 / cases), size=draws).astype(np.float64)
    values = np.array([np.mean([metric(outcome, weights) for outcome in outcomes]) for weights in drawn])
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)
