"""Mean rank of the arms over tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import rankdata

from trocar.downstream.metrics.outcome import Floats
from trocar.errors import TrocarError
from trocar.study.statistics.crossed import CASES_ONLY, FEWEST_CASES, FEWEST_DRAWN, SEEDS_AND_CASES, Crossed
from trocar.study.statistics.resample import Result


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
