"""Crossed bootstrap: seeds of each arm, and independently one set of test cases shared by all arms.

Resampling cases inside each seed (nested) is wrong here: all seeds are scored on the same cases, so their errors do
not average out. The plain crossed percentile is too narrow for few seeds or cases. What is used instead is a t
interval on the crossed variance V = V_S + V_C,

    V_S = sum over arms of coef^2 s_arm^2 / S,  with Satterthwaite's d degrees of freedom
    V_C = n / (n - 1) * variance over the draws of the n cases,  with n - 1

The degrees of freedom of V are Satterthwaite's, but with g V_S in place of V_S, g = 1 + 6 / d^2: seeds that are alike
by luck make V_S small and its weight in the degrees with it, so that they would seem many just where they are too few.

`python benchmarks/coverage.py` prints the coverage of nested, crossed, inflated, Satterthwaite's and this interval at 7
to 40 cases and 2 to 5 seeds, which it was chosen by; with `--guards`, that of other numbers than 6: with 4, one arm of
two seeds is at .92 where nearly all variance is between seeds, and 6 leaves room. Two seeds have their price: where the
seeds are half of the variance, the interval of an arm is about twice as wide as if the variances were known.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trocar.downstream.metrics.outcome import Floats
from trocar.errors import TrocarError, nearest
from trocar.study.statistics.resample import Arm, CaseMetric, O, Resampled, Result, draw_cases, resample

SEEDS_AND_CASES = "over seeds and test cases"
CASES_ONLY = "over test cases only"
SEED_GUARD = 6.0
FEWEST_DRAWN = 3
"""Cases that it takes to say anything by drawing from them: one is the same on every draw."""
FEWEST_CASES = {"level": 14, "contrast": 7}
"""Fewest cases at which simulated coverage reaches .92. A level, of one arm, needs more than a contrast, whose
coefficients add up to 0: the skew of cases is in it, and in a difference it cancels. With five seeds and cases as
skewed as an exponential, 14 only just reach it."""


@dataclass(frozen=True)
class Estimate(Result):
    """A number with its interval.

    `error` is the standard error, `degrees` Satterthwaite's degrees of freedom; `seeds` the fewest of any arm in it;
    `undefined` the share of draws on which the metric was undefined (left out). `scope` says what the interval is
    over: `CASES_ONLY` if an arm has one seed, or if none has any. `too_narrow`: fewer than `FEWEST_CASES`, or more than
    half of the draws undefined; the nominal level is not reached then. No interval (NaN) for fewer than `FEWEST_DRAWN`
    cases or 2 defined draws.
    """

    name: str
    value: float
    low: float
    high: float
    level: float
    error: float
    degrees: float
    cases: int
    seeds: int
    scope: str
    too_narrow: bool
    undefined: float

    @property
    def p(self) -> float:
        """Two-sided p of the t test that the number is 0, for differences; NaN without an interval."""
        if np.isnan(self.error):
            return float("nan")
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.degrees))


@dataclass(frozen=True)
class Crossed:
    """One metric of all arms on the same draws of the same cases."""

    arms: Mapping[str, Resampled]
    level: float = 0.95

    def __post_init__(self) -> None:
        shapes = {(arm.cases, arm.drawn.shape[1]) for arm in self.arms.values()}
        if len(shapes) > 1:
            raise TrocarError(f"arms have different cases and draws: {sorted(shapes)}; resample them together")

    def __getitem__(self, name: str) -> Resampled:
        if name not in self.arms:
            raise TrocarError(f"no arm {name!r}{nearest(name, self.arms)}; arms: {', '.join(self.arms)}")
        return self.arms[name]

    def arm(self, name: str, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
        """The metric of one arm. `bounds` is the range of the metric, which the interval is cut to."""
        return self.linear(name, {name: 1.0}, bounds)

    def difference(self, a: str, b: str) -> Estimate:
        """a - b, paired over cases."""
        return self.linear(f"{a} - {b}", {a: 1.0, b: -1.0} if a != b else {})

    def linear(
        self, name: str, coefficients: Mapping[str, float], bounds: tuple[float, float] = (-np.inf, np.inf)
    ) -> Estimate:
        """The sum of coefficient x arm. Raises TrocarError for an unknown arm or no arm with a coefficient."""
        parts = [(weight, self[arm]) for arm, weight in coefficients.items() if weight != 0]
        if not parts:
            raise TrocarError(f"{name}: nothing to compare; name two different arms")
        return estimate(name, parts, self.level, bounds)

    def joint(self, seed: int = 0) -> dict[str, Floats]:
        """Draws of all arms together, float64 [draws] each, for what is not linear in them (ranks, fits).

        Arm + its draws of cases, scaled so that they have a t distribution over the cases, + its seeds' deviations
        times normal numbers, scaled to the seed variance pooled over the arms with as many degrees of freedom as all
        arms have together: separate variances of two or three seeds have tails that no fit survives. The numbers
        depend on `seed` and the arm's name, so that a seed that is good on one task is so on the next.
        """
        return joint_draws(list(self.arms.values()), seed)


def crossed(
    arms: Sequence[Arm[O]], metric: CaseMetric[O], *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Crossed:
    """Resample `metric` of all arms. Raises TrocarError for no arms, doubled names or arms scored on other cases."""
    names = [arm.name for arm in arms]
    if not arms or len(set(names)) < len(names):
        raise TrocarError(f"arms need names of their own, got {names}")
    drawn = draw_cases(arms[0].seeds[0][0].cases, draws, seed)
    return Crossed({arm.name: resample(arm, metric, drawn) for arm in arms}, level)


def estimate(
    name: str,
    parts: Sequence[tuple[float, Resampled]],
    level: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """The sum of weight x metric over `parts` with independent seeds and shared cases, with its interval."""
    cases, arms = parts[0][1].cases, [arm for _, arm in parts]
    value = float(sum(weight * arm.value for weight, arm in parts))
    part: Floats = np.sum([weight * arm.case_part for weight, arm in parts], axis=0)
    defined = part[~np.isnan(part)]
    error = degrees = float("nan")
    if cases >= FEWEST_DRAWN and len(defined) >= 2:
        terms = [(weight**2 * arm.seed_variance, arm.seeds - 1) for weight, arm in parts if arm.seeds > 1]
        error, degrees = guarded(terms, (cases / (cases - 1) * float(np.var(defined)), cases - 1))
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error if error else error
    undefined = 1 - len(defined) / max(1, len(part))
    drawn = [arm.seeds for arm in arms if not arm.fixed]
    over_seeds = bool(drawn) and min(drawn) > 1
    kind = "contrast" if abs(sum(weight for weight, _ in parts)) < 1e-9 else "level"
    low, high = np.clip([value - half, value + half], *bounds)
    return Estimate(
        name=name,
        value=value,
        low=float(low),
        high=float(high),
        level=level,
        error=error,
        degrees=degrees,
        cases=cases,
        seeds=min(arm.seeds for arm in arms),
        scope=SEEDS_AND_CASES if over_seeds else CASES_ONLY,
        too_narrow=cases < FEWEST_CASES[kind] or undefined > 0.5,
        undefined=undefined,
    )


def guarded(
    seeds: Sequence[tuple[float, float]], cases: tuple[float, float], guard: float = SEED_GUARD
) -> tuple[float, float]:
    """Standard error and degrees of freedom from (variance, degrees) of the seeds of each arm and of the cases.

    The guard is 1 + `guard` / degrees^2 of the seeds; with 0 this is Satterthwaite's interval.
    """
    error = float(np.sqrt(sum(variance for variance, _ in [*seeds, cases])))
    between = sum(variance for variance, _ in seeds)
    if between == 0:
        return error, cases[1]
    own = satterthwaite(seeds)
    return error, satterthwaite([((1 + guard / own**2) * between, own), cases])


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances above 0, each with its own (Satterthwaite 1946)."""
    return sum(variance for variance, _ in parts) ** 2 / sum(variance**2 / degrees for variance, degrees in parts)


def joint_draws(arms: Sequence[Resampled], seed: int = 0) -> dict[str, Floats]:
    """See `Crossed.joint`. NaN on draws that leave an arm's metric undefined."""
    cases, draws = arms[0].cases, arms[0].drawn.shape[1]
    generator = np.random.Generator(np.random.Philox(key=seed))
    case_scale = np.sqrt(cases / max(1, cases - 1)) * _t_scale(generator, cases - 1, draws)
    degrees = sum(arm.seeds - 1 for arm in arms)
    squares = sum(float(np.sum((arm.values - arm.value) ** 2)) for arm in arms)
    deviation = np.sqrt(squares / degrees) if degrees else 0.0
    seed_scale = deviation * _t_scale(generator, degrees, draws)
    return {
        arm.name: arm.value + case_scale * arm.case_part + seed_scale * _seed_direction(arm, draws, seed)
        for arm in arms
    }


def _t_scale(generator: np.random.Generator, degrees: int, draws: int) -> Floats:
    """What makes a normal number one of Student's t, float64 [draws]."""
    if degrees < 1:
        return np.ones(draws)
    return np.sqrt(degrees / generator.chisquare(degrees, size=draws))


def _seed_direction(arm: Resampled, draws: int, seed: int) -> Floats:
    """Normal numbers of variance 1 / S, [draws], along the deviations of the arm's seeds."""
    deviations = arm.values - arm.value
    length = float(np.linalg.norm(deviations))
    if arm.seeds < 2 or length == 0:
        return np.zeros(draws)
    key = np.array([seed, zlib.crc32(arm.name.encode())], dtype=np.uint64)
    normal = np.random.Generator(np.random.Philox(key=key)).standard_normal((arm.seeds, draws))
    direction: Floats = deviations / length @ normal / np.sqrt(arm.seeds)
    return direction
