"""Tests of the declared contrasts, corrected for their number (Holm 1979), and of no others.

Paired permutation of two arms over cases, for any metric of weighted cases; exact for few cases.

The null hypothesis is that for each case it doesn't matter which arm's predictions are called whose. Swapping the
predictions of a case and recomputing the metric tests the named metric itself; Wilcoxon's test and a sign flip of
values per case test another one where the metric is pooled (a pooled mAP is not a mean over cases).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any, Generic

import numpy as np
from scipy import stats

from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.errors import ConfigError, TrocarError, nearest
from trocar.study.statistics.crossed import CASES_ONLY, Crossed, Estimate
from trocar.study.statistics.resample import Arm, CaseMetric, O, Result

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


@dataclass(frozen=True)
class ScoredTask(Generic[O]):
    """A task with its metric: `crossed` is that metric of `arms`."""

    task: str
    crossed: Crossed
    arms: Sequence[Arm[O]]
    metric: CaseMetric[O]


@dataclass(frozen=True)
class Contrast(Result):
    """a - b on a task, tested.

    `p_cases` is the paired permutation over cases, seeds averaged first; it takes the trained models as given. It is of
    all swaps of the cases where `exact`, else of a random sample of them.
    `p_seeds` is the t test over seeds and cases (NaN with one seed). `p` is the larger of the two, since both must
    hold: two arms of one recipe differ on the same cases by the luck of their seeds alone, and the permutation calls
    that a difference (`python benchmarks/coverage.py --null` prints how often). `p_holm` is `p` corrected over all
    declared contrasts.

    `underpowered` is "underpowered, n = 7" where not even the smallest p that n cases can give passes the corrected
    level; all four p are NaN then. `different`: `p_holm` is at most the level. `scope` of the difference says whether
    the seeds are in it.
    """

    task: str
    a: str
    b: str
    difference: Estimate
    p_cases: float
    p_seeds: float
    p: float
    p_holm: float
    underpowered: str | None
    different: bool
    exact: bool

    @property
    def result(self) -> str:
        """The result of the test in words."""
        return self.underpowered or ("different" if self.different else "not shown to differ")


def declared_contrasts(
    tasks: Sequence[ScoredTask[Any]],
    contrasts: Sequence[tuple[str, str]],
    *,
    level: float = 0.05,
    flips: int = FLIPS,
    seed: int = 0,
) -> list[Contrast]:
    """Test every (a, b) of `contrasts` on every task, two-sided; all of them are one family with error `level`.

    Underpowered ones count in the correction: they were declared. Raises ConfigError for an unknown arm, a contrast
    declared twice (in either direction) or of an arm with itself, and for too few `flips` to reach the level.
    """
    for scored in tasks:
        _check(contrasts, {arm.name: arm for arm in scored.arms})
    family = [(scored, a, b) for scored in tasks for a, b in contrasts]
    floors = [smallest_p(next(iter(scored.crossed.arms.values())).cases, flips) for scored, _, _ in family]
    if floors and 2 / (flips + 1) > level / len(floors):
        enough = ceil(2 * len(floors) / level) - 1
        raise ConfigError(f"{flips} swaps can't reach {level} for {len(floors)} tests; set at least {enough}")
    tested = [
        _test(*entry, flips=flips, seed=seed)
        if floor <= corrected_level(floor, floors, level)
        else _untested(*entry, flips=flips)
        for entry, floor in zip(family, floors, strict=True)
    ]
    corrected = holm([contrast.p for contrast in tested])
    return [replace(c, p_holm=p, different=p <= level) for c, p in zip(tested, corrected, strict=True)]


def corrected_level(floor: float, floors: Sequence[float], level: float) -> float:
    """The most that Holm can leave to a test whose smallest p is `floor`: those that can have a smaller p may have
    been rejected before.
    """
    return level / sum(other >= floor for other in floors)


def _test(scored: ScoredTask[Any], a: str, b: str, *, flips: int, seed: int) -> Contrast:
    contrast, arms = _untested(scored, a, b, flips=flips), {arm.name: arm for arm in scored.arms}
    p_cases = swap_test(arms[a], arms[b], scored.metric, flips=flips, seed=seed)
    p_seeds = contrast.difference.p if contrast.difference.scope != CASES_ONLY else float("nan")
    return replace(contrast, p_cases=p_cases, p_seeds=p_seeds, p=float(np.fmax(p_cases, p_seeds)), underpowered=None)


def _untested(scored: ScoredTask[Any], a: str, b: str, *, flips: int) -> Contrast:
    difference, nan = scored.crossed.difference(a, b), float("nan")
    reason = f"underpowered, n = {difference.cases}"
    exact = is_exact(difference.cases, flips)
    return Contrast(scored.task, a, b, difference, nan, nan, nan, nan, reason, different=False, exact=exact)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p (Scandinavian Journal of Statistics 1979), NaN where p is; a NaN counts as a test that didn't
    reject.

    The i-th smallest of n is multiplied by n - i + 1 and is at least as large as those before it.
    """
    raw = np.array(p, dtype=np.float64)
    known = np.nan_to_num(raw, nan=1.0)
    order = np.argsort(known, kind="stable")
    corrected = np.empty_like(known)
    corrected[order] = np.minimum(np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)), 1.0)
    values: list[float] = np.where(np.isnan(raw), np.nan, corrected).tolist()
    return values


def _check(contrasts: Sequence[tuple[str, str]], arms: Mapping[str, object]) -> None:
    seen: set[frozenset[str]] = set()
    for pair in contrasts:
        for name in pair:
            if name not in arms:
                raise ConfigError(f"contrasts: no arm {name!r}{nearest(name, arms)}; arms: {', '.join(arms)}")
        if pair[0] == pair[1]:
            raise ConfigError(f"contrasts: {pair[0]!r} is compared with itself; name two arms")
        if frozenset(pair) in seen:
            raise ConfigError(f"contrasts: {pair[0]!r} and {pair[1]!r} are compared twice; once is enough")
        seen.add(frozenset(pair))
