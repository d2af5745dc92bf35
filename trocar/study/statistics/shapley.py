"""Exact Shapley values of sources, where all their subsets were pretrained on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

from trocar.study.statistics.crossed import Crossed, Estimate
from trocar.study.statistics.result import Result

MOST_SOURCES = 10


@dataclass(frozen=True)
class Shapley(Result):
    """`values[source]`, which add up to the metric with all sources - that of the init; or the `reason` for none."""

    values: Mapping[str, Estimate]
    reason: str | None


def shapley(
    crossed: Crossed,
    amounts: Mapping[str, Mapping[str, float]],
    sources: Sequence[str],
    init: str,
    shared: Collection[frozenset[str]] = (),
) -> Shapley:
    """Shapley (1953) values with intervals: each is a weighted sum of arms, so it has a crossed interval like one.

    The value of a subset of sources is the metric of the arm that saw these sources whole and nothing else; of the
    empty one, that of the init. `amounts` are those of the arms that saw something, `shared` pairs of sources with
    cases in common, whose subsets would not be subsets of the cases. Not identifiable unless the sources are disjoint
    and each subset was run with the same amount of each source.
    """
    if len(sources) < 2:
        return _none("fewer than two sources")
    if pairs := [pair for pair in shared if pair <= set(sources)]:
        return _none("sources share cases: " + ", ".join(" and ".join(sorted(pair)) for pair in pairs))
    if len(sources) > MOST_SOURCES:
        return _none(f"{len(sources)} sources have {2 ** len(sources)} subsets")
    games = [_game(amounts, mix, init) for mix in amounts.values() if set(mix) == set(sources)]
    if not games:
        return _none(f"no arm has all sources ({', '.join(sources)})")
    game = max(games, key=len)
    subsets = [frozenset(s) for size in range(len(sources) + 1) for s in combinations(sources, size)]
    if missing := ["+".join(sorted(subset)) for subset in subsets if subset not in game]:
        return _none(f"{len(missing)} of {len(subsets)} subsets were not run in these amounts: {', '.join(missing)}")
    return Shapley({source: crossed.linear(source, _coefficients(source, sources, game)) for source in sources}, None)


def _none(reason: str) -> Shapley:
    return Shapley({}, f"not identifiable: {reason}")


def _game(
    amounts: Mapping[str, Mapping[str, float]], whole: Mapping[str, float], init: str
) -> dict[frozenset[str], str]:
    """The arm of each subset of the sources in the amounts of `whole`."""
    arms = {frozenset(mix): arm for arm, mix in amounts.items() if mix.items() <= whole.items()}
    return {frozenset(): init, **arms}


def _coefficients(source: str, sources: Sequence[str], game: Mapping[frozenset[str], str]) -> dict[str, float]:
    """Weight of every arm in the value of `source`: |S|! (k - |S| - 1)! / k! for each S without it, with and
    without.
    """
    k, weights = len(sources), {}
    others = [other for other in sources if other != source]
    for size in range(k):
        weight = factorial(size) * factorial(k - size - 1) / factorial(k)
        for subset in combinations(others, size):
            weights[game[frozenset(subset) | {source}]] = weight
            weights[game[frozenset(subset)]] = -weight
    return weights
