"""Power law of a metric over nested sizes of one mixture.

Learning curve over label budgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from trocar.downstream.metrics.outcome import Floats
from trocar.errors import TrocarError
from trocar.study.statistics.crossed import (
    CASES_ONLY,
    FEWEST_CASES,
    FEWEST_DRAWN,
    SEEDS_AND_CASES,
    Crossed,
    Estimate,
    estimate,
)
from trocar.study.statistics.resample import Resampled, Result, combine


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


FEWEST_SIZES = 5
FARTHEST = 2.0
"""How many times the largest size a curve may be read at."""
EXPONENTS = (0.01, 3.0)
"""Below, a power law is a logarithm; above, it has levelled off after the first size. Neither can be told apart from
its neighbours by scores, so an exponent at an end is no fit."""
GRID = 24


@dataclass(frozen=True)
class Scale:
    """One size: the arm, its cases for every pretraining seed, and how much of each source it saw."""

    arm: str
    cases: tuple[frozenset[str], ...]
    amounts: Mapping[str, float]

    @property
    def size(self) -> float:
        """The amount of all sources together."""
        return float(sum(self.amounts.values()))


@dataclass(frozen=True)
class PowerLaw(Result):
    """metric(n) = limit - gain * (n / smallest size)^-exponent, each with its interval from the crossed draws.

    `gain` is what lies between the smallest size and the limit (negative for an error that falls). `at`, `curve`,
    `low` and `high` are sizes, up to twice the largest, and the metric there. `misfit` is the root mean square of the
    residuals over points - 3 degrees of freedom. `at_end` is the share of draws whose exponent ran to an end of
    `EXPONENTS` (they are in the intervals): a large one means that the exponent is hardly known. `scope` and
    `too_narrow` as of an estimate of a level.
    """

    limit: tuple[float, float, float]
    gain: tuple[float, float, float]
    exponent: tuple[float, float, float]
    smallest: float
    largest: float
    at: tuple[float, ...]
    curve: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    misfit: float
    at_end: float
    scope: str
    too_narrow: bool

    def predict(self, size: float) -> float:
        """The metric at `size`. Raises TrocarError outside the smallest size to twice the largest."""
        if not self.smallest <= size <= FARTHEST * self.largest:
            raise TrocarError(
                f"size {size:g} is outside {self.smallest:g} to {FARTHEST * self.largest:g}: a power law is read at "
                f"most {FARTHEST:g} times beyond the sizes it was fitted to; run larger ones"
            )
        return float(self.limit[0] - self.gain[0] * (size / self.smallest) ** -self.exponent[0])


@dataclass(frozen=True)
class Scaling(Result):
    """The metric at each of `sizes`, rising, and the `law`, or the `reason` for points without a curve."""

    sizes: tuple[float, ...]
    points: tuple[Estimate, ...]
    law: PowerLaw | None
    reason: str | None


def scaling(crossed: Crossed, scales: Sequence[Scale], *, seed: int = 0) -> Scaling:
    """The points of `scales`, with a power law through them where at least 5 different sizes are nested (per seed)
    and of one mixture. Raises TrocarError for no sizes or an arm without scores.
    """
    if not scales:
        raise TrocarError("scaling needs at least one size")
    scales = sorted(scales, key=lambda scale: scale.size)
    points = tuple(crossed.arm(scale.arm) for scale in scales)
    sizes = np.array([scale.size for scale in scales])
    reason = _unfit(scales)
    law = None if reason else fit_power_law(crossed, [scale.arm for scale in scales], sizes, seed)
    if law is None and reason is None:
        reason = "no curve: the points don't bend as a power law does"
    return Scaling(tuple(sizes.tolist()), points, law, reason)


def _unfit(scales: Sequence[Scale]) -> str | None:
    sizes = len({scale.size for scale in scales})
    if sizes < FEWEST_SIZES:
        return f"no curve: {sizes} sizes, a power law needs {FEWEST_SIZES}"
    if sizes < len(scales):
        return "no curve: two arms have one size"
    for small, large in pairwise(scales):
        if len(small.cases) != len(large.cases):
            return f"no curve: {small.arm} and {large.arm} have different numbers of seeds"
        if not all(a < b for a, b in zip(small.cases, large.cases, strict=True)):
            return f"no curve: the cases of {small.arm} are not all among those of {large.arm}"
        if not one_mixture(small, large):
            return f"no curve: {small.arm} and {large.arm} are different mixtures"
    return None


def one_mixture(a: Scale, b: Scale) -> bool:
    """Equal shares, but for less than one case of each source in the smaller arm."""
    slack = 1 / max(1, min(len(cases) for cases in a.cases))
    sources = {*a.amounts, *b.amounts}
    return all(abs(a.amounts.get(s, 0) / a.size - b.amounts.get(s, 0) / b.size) < slack for s in sources)


class Fit(NamedTuple):
    """A power law through points; `at_end` if its exponent is at an end of `EXPONENTS` or the points are equal."""

    limit: float
    gain: float
    exponent: float
    at_end: bool

    def height(self, ratio: Floats) -> Floats:
        """The metric at `ratio` times the smallest size."""
        heights: Floats = self.limit - self.gain * ratio**-self.exponent
        return heights


def fit_power_law(crossed: Crossed, arms: Sequence[str], sizes: Floats, seed: int = 0) -> PowerLaw | None:
    """Least squares through the arms' means, and through every joint draw. None if the exponent of the means is at an
    end.
    """
    means = np.array([crossed[arm].value for arm in arms])
    best = power_law(sizes, means)
    if best.at_end:
        return None
    # Only these arms: their seeds' scatter is pooled, not that of the study.
    joint = Crossed({arm: crossed[arm] for arm in arms}, crossed.level).joint(seed)
    drawn = np.stack([joint[arm] for arm in arms], axis=1)
    fits = [power_law(sizes, row) for row in drawn[~np.isnan(drawn).any(1)]]
    at = np.geomspace(sizes[0], FARTHEST * sizes[-1], GRID)
    if crossed[arms[0]].cases < FEWEST_DRAWN:
        fits = []  # no interval: draws of one or two cases say nothing of others
    heights = _ends(np.array([fit.height(at / sizes[0]) for fit in fits]).reshape(-1, GRID), crossed.level)
    limit, gain, exponent = _ends(np.array([fit[:3] for fit in fits]).reshape(-1, 3), crossed.level).T.tolist()
    residuals = means - best.height(sizes / sizes[0])
    over_seeds = all(crossed[arm].seeds > 1 or crossed[arm].fixed for arm in arms)
    return PowerLaw(
        limit=(best.limit, *limit),
        gain=(best.gain, *gain),
        exponent=(best.exponent, *exponent),
        smallest=float(sizes[0]),
        largest=float(sizes[-1]),
        at=tuple(at.tolist()),
        curve=tuple(best.height(at / sizes[0]).tolist()),
        low=tuple(heights[0].tolist()),
        high=tuple(heights[1].tolist()),
        misfit=float(np.sqrt(residuals @ residuals / (len(arms) - 3))),
        at_end=float(np.mean([fit.at_end for fit in fits])) if fits else float("nan"),
        scope=SEEDS_AND_CASES if over_seeds else CASES_ONLY,
        too_narrow=crossed[arms[0]].cases < FEWEST_CASES["level"],
    )


def power_law(sizes: Floats, values: Floats) -> Fit:
    """Least squares over limit, gain and an exponent in `EXPONENTS`; sizes [m] rising, values [m].

    For one exponent the other two are a linear fit, so that only the exponent is searched for: `curve_fit` on all
    three is sent astray by where it starts.
    """
    ratio = sizes / sizes[0]

    def cost(log_exponent: float) -> float:
        return _line(ratio, values, float(np.exp(log_exponent)))[2]

    grid = np.linspace(float(np.log(EXPONENTS[0])), float(np.log(EXPONENTS[1])), GRID)
    start = int(np.argmin([cost(c) for c in grid]))
    at_end = start in (0, GRID - 1) or bool(np.ptp(values) <= 1e-9 * np.abs(values).max())
    exponent = EXPONENTS[1 if start == GRID - 1 else 0]
    if not at_end:
        bounds = grid[start - 1], grid[start + 1]
        exponent = float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))
    limit, slope, _ = _line(ratio, values, exponent)
    return Fit(limit, -slope, exponent, at_end)


def _line(ratio: Floats, values: Floats, exponent: float) -> tuple[float, float, float]:
    """Intercept, slope and squared residuals of values against ratio^-exponent."""
    x = ratio**-exponent
    centred = x - x.mean()
    slope = float(centred @ values / (centred @ centred))
    limit = float(values.mean() - slope * x.mean())
    residuals = values - limit - slope * x
    return limit, slope, float(residuals @ residuals)


def _ends(rows: Floats, level: float) -> Floats:
    """Ends of the percentile interval over rows, [2, columns]; NaN for fewer than two rows."""
    if len(rows) < 2:
        return np.full((2, rows.shape[1]), np.nan)
    ends: Floats = np.percentile(rows, [100 * (1 - level) / 2, 100 * (1 + level) / 2], axis=0)
    return ends
