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

The mean rank of the arms over tasks comes from such intervals of their differences.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats
from scipy.stats import rankdata

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


@dataclass(frozen=True)
class Rank(Result):
    """`mean` over tasks of the rank (1 is best, ties share their mean), its interval, and `best`, the share of draws
    in which no arm has a better mean rank; NaN where a task has too few cases to be drawn from (`FEWEST_DRAWN`), since
    the draws of such a task hardly differ and would make any share look certain.

    The interval is from tests of the arm against all others on all tasks, together at the level (Bonferroni): on a task
    the rank is at least 1 + the arms shown to be better, and at most their number less those shown to be worse
    (Mogstad, Romano, Shaikh and Wilhelm, Review of Economic Studies 2024). Ranks of draws lie nearer to the middle than
    the rank itself, so that their percentiles leave out the first and the last arm of several tasks too often.
    `benchmarks/coverage_curves.py` has the coverage. The tasks are taken as given: nothing is said about other tasks.
    """

    arm: str
    mean: float
    low: float
    high: float
    best: float
    ranks: Mapping[str, float]


@dataclass(frozen=True)
class ArmRanking(Result):
    """`ranks` by mean rank over `tasks`; `left_out` tasks lack an arm. `scope` and `too_narrow` as of an estimate (of a
    contrast: ranks compare arms).
    """

    ranks: tuple[Rank, ...]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    scope: str
    too_narrow: bool


def rank_over_tasks(
    tasks: Mapping[str, Crossed], *, smaller_is_better: Collection[str] = (), seed: int = 0, level: float = 0.95
) -> ArmRanking:
    """Rank all arms on every task and average. `smaller_is_better` names tasks whose metric is a distance or error.

    An arm's seeds must be in the same order in all tasks: a pretraining that is lucky on one task is so on the next.
    Raises TrocarError if no task has all arms.
    """
    arms = list(dict.fromkeys(arm for crossed in tasks.values() for arm in crossed.arms))
    used = {name: crossed for name, crossed in tasks.items() if len(crossed.arms) == len(arms)}
    if not used:
        raise TrocarError(f"no task was scored for all arms ({', '.join(arms)}); rank fewer arms")
    signs = {name: 1.0 if name in smaller_is_better else -1.0 for name in used}
    point = {n: rankdata([signs[n] * crossed[arm].value for arm in arms]) for n, crossed in used.items()}
    drawn = np.mean([_ranks(crossed, arms, signs[name], seed) for name, crossed in used.items()], axis=0)
    drawn = drawn[:, ~np.isnan(drawn).any(0)]
    mean = np.mean(list(point.values()), axis=0)
    ends = [_ends(crossed, arms, signs[name], 1 - (1 - level) / _tests(arms, used)) for name, crossed in used.items()]
    low, high = np.mean(ends, axis=0)
    drawable = drawn.size and all(crossed[arms[0]].cases >= FEWEST_DRAWN for crossed in used.values())
    best = (drawn == drawn.min(0)).mean(1) if drawable else np.full(len(arms), np.nan)
    ranks = [
        Rank(arm, float(mean[i]), float(low[i]), float(high[i]), float(best[i]), {n: float(point[n][i]) for n in used})
        for i, arm in enumerate(arms)
    ]
    over_seeds = all(arm.seeds > 1 or arm.fixed for crossed in used.values() for arm in crossed.arms.values())
    return ArmRanking(
        ranks=tuple(sorted(ranks, key=lambda rank: rank.mean)),
        tasks=tuple(used),
        left_out=tuple(name for name in tasks if name not in used),
        scope=SEEDS_AND_CASES if over_seeds else CASES_ONLY,
        too_narrow=any(crossed[arms[0]].cases < FEWEST_CASES["contrast"] for crossed in used.values()),
    )


def _tests(arms: list[str], tasks: Mapping[str, Crossed]) -> int:
    """Differences that one arm's interval rests on."""
    return max(1, (len(arms) - 1) * len(tasks))


def _ends(crossed: Crossed, arms: list[str], sign: float, level: float) -> Floats:
    """Least and largest rank of the arms on one task, [2, arms]; NaN where a difference has no interval."""
    table = Crossed(crossed.arms, level)
    better: Floats = np.zeros((len(arms), len(arms)))  # whether the row's arm is shown to be better than the column's
    for i, j in combinations(range(len(arms)), 2):
        found = table.difference(arms[i], arms[j])
        low, high = sorted((sign * found.low, sign * found.high))
        better[i, j], better[j, i] = (np.nan, np.nan) if np.isnan(low) else (high < 0, low > 0)
    ends: Floats = np.stack([1 + better.sum(0), len(arms) - better.sum(1)])
    return ends


def _ranks(crossed: Crossed, arms: list[str], sign: float, seed: int) -> Floats:
    """Ranks of the arms on every draw, [arms, draws]."""
    draws = crossed.joint(seed)
    ranks: Floats = rankdata(sign * np.stack([draws[arm] for arm in arms]), axis=0, nan_policy="propagate")
    return ranks
