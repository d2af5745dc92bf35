"""Paired permutation of two arms over cases, for any metric of weighted cases; exact for few cases.

The null hypothesis is that for each case it doesn't matter which arm's predictions are called whose. Swapping the
predictions of a case and recomputing the metric tests the named metric itself; Wilcoxon's test and a sign flip of
values per case test another one where the metric is pooled (a pooled mAP is not a mean over cases).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from scipy import stats

from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.errors import TrocarError
from trocar.study.statistics.resample import Arm, CaseMetric, O

FLIPS = 4096
"""Swaps that are computed: all of them for up to 12 cases, else this many at random."""


def swap_test(a: Arm[O], b: Arm[O], metric: CaseMetric[O], *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of `scipy.stats.permutation_test` for the difference of the means over seeds.

    The trained models are taken as given: with few seeds a small p says that *these models* differ, not that the arms
    do. NaN if the metric is undefined on all cases.
    """
    pairs = [(weight, beside(x, y)) for weight, x, y in couple(a, b)]
    cases = pairs[0][1].cases // 2

    def difference(x: Ints, y: Ints) -> float:
        first, second = (np.bincount(rows, minlength=2 * cases).astype(np.float64) for rows in (x, y))
        return sum(weight * (metric(both, first) - metric(both, second)) for weight, both in pairs)

    rows = np.arange(cases), np.arange(cases, 2 * cases)
    if np.isnan(difference(*rows)):
        return float("nan")
    test = stats.permutation_test(
        rows, difference, permutation_type="samples", vectorized=False, n_resamples=flips, random_state=seed
    )
    return float(test.pvalue)


def is_exact(cases: int, flips: int = FLIPS) -> bool:
    """Whether `swap_test` computes all swaps of so many cases, and not a sample of them."""
    return bool(2**cases <= flips)


def smallest_p(cases: int, flips: int = FLIPS) -> float:
    """The smallest p that `swap_test` can give: one of 2^cases swaps, on two sides."""
    return 2 / 2**cases if is_exact(cases, flips) else 2 / (flips + 1)


def couple(a: Arm[O], b: Arm[O]) -> list[tuple[float, O, O]]:
    """Pairs of runs with weights, such that each arm's weights add up to its mean over seeds of means over runs."""
    (runs_a, upto_a), (runs_b, upto_b) = _weighted(a), _weighted(b)
    edges = np.unique(np.round(np.concatenate([[0.0], upto_a, upto_b]), 12))
    middle = (edges[1:] + edges[:-1]) / 2
    return [
        (float(width), runs_a[int(i)], runs_b[int(j)])
        for width, i, j in zip(
            np.diff(edges), np.searchsorted(upto_a, middle), np.searchsorted(upto_b, middle), strict=True
        )
    ]


def _weighted(arm: Arm[O]) -> tuple[list[O], Floats]:
    weights = [1 / len(arm.seeds) / len(runs) for runs in arm.seeds for _ in runs]
    return [run for runs in arm.seeds for run in runs], np.cumsum(weights)


def beside(a: O, b: O) -> O:
    """Both outcomes as one of twice the cases: b's case c becomes case c + cases.

    Arrays of one row per frame (or image) are joined, all else is taken from `a`. Raises TrocarError if the two have
    different frames in a case.
    """
    if not np.array_equal(np.bincount(a.case), np.bincount(b.case)):
        raise TrocarError("two arms were scored on different frames of the test cases; score both on the same ones")
    changes: dict[str, Any] = {}
    for field in (field for field in fields(a) if field.init):  # type: ignore[arg-type]
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray) and len(x) == len(a.case):
            changes[field.name] = np.concatenate([x, y])
    changes["case"] = np.concatenate([a.case, b.case + a.cases])
    return replace(a, **changes)  # type: ignore[type-var]
