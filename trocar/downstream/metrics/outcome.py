"""What a metric sees: labels, predictions and scores of all test frames, and the case each belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """Predictions of n test frames, pooled over the folds.

    One label a frame: `gt` and `pred` are int64 [n] class indices. Several: int64 [n, K] of 0 and 1. `scores`
    is float64 [n, K], larger is more confident. `case` is int64 [n], the operation a frame belongs to, 0 ..
    number of cases - 1.
    """

    gt: Ints
    pred: Ints
    scores: Floats
    case: Ints

    @cached_property
    def cases(self) -> int:
        """Number of cases."""
        return int(self.case.max()) + 1 if len(self.case) else 0

    @cached_property
    def descending(self) -> list[Ints]:
        """For each class the frame indices by falling score; sorted once however often a metric is
        resampled.
        """
        return [np.argsort(-column, kind="stable") for column in self.scores.T]


Metric = Callable[[Outcome, "Floats | None"], float]
"""metric(outcome, weights): `weights` is float64 [cases], how often each case counts (None: once)."""


def frame_weights(outcome: Outcome, weights: Floats | None) -> Floats:
    """Weight of every frame, float64 [n], from the weights of the cases."""
    return np.ones(len(outcome.case)) if weights is None else weights[outcome.case]


def case_mean(values: Floats, weights: Floats | None) -> float:
    """Weighted mean over cases whose value is defined (not NaN); NaN if there is none."""
    weights = np.ones(len(values)) if weights is None else weights
    use = ~np.isnan(values) & (weights > 0)
    return float(np.average(values[use], weights=weights[use])) if use.any() else float("nan")
