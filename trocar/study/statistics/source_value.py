"""What each pretraining source was worth, by the comparisons that the arms of a study allow.

Contrasts first: they need no model. A Shapley value or a regression only where the arms identify one.

Exact Shapley values of sources, where all their subsets were pretrained on.

Regression of the metric on the arms' shares of sources, where the design identifies it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial, isclose

import numpy as np

from trocar.downstream.metrics.outcome import Floats
from trocar.errors import TrocarError, nearest
from trocar.study.statistics.crossed import Crossed, Estimate
from trocar.study.statistics.resample import Result

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


@dataclass(frozen=True)
class ShareRegression(Result):
    """Least squares over arms with one column per source, its share of the arm, and `log2 size` (centred) where arms
    differ in size. Shares add up to 1, so there is no intercept: `values[source]` is the metric that the line gives
    an arm of that source alone, of the mean log size; `values["log2 size"]` what a doubling adds.

    Intervals hold the seeds and cases of the arms, not the line's own error: `misfit` is the root mean square of its
    residuals with `spare` arms more than columns (None without any). `reason` says why there is none.
    """

    values: Mapping[str, Estimate]
    columns: tuple[str, ...]
    arms: int
    rank: int
    misfit: float | None
    spare: int
    reason: str | None


def share_regression(
    crossed: Crossed, amounts: Mapping[str, Mapping[str, float]], sources: Sequence[str]
) -> ShareRegression:
    """Fit the arms in `amounts` (arm -> source -> amount, all above 0), or say why they don't identify the values."""
    design, columns = design_matrix(amounts, sources)
    arms, rank = list(amounts), int(np.linalg.matrix_rank(design)) if design.size else 0
    spare = len(arms) - len(columns)
    if rank < len(columns) or not sources:
        return ShareRegression({}, columns, len(arms), rank, None, spare, _reason(design, columns, rank))
    # Least squares is linear in the scores: every coefficient is a weighted sum of arms.
    weights = np.linalg.pinv(design)
    values = {
        column: crossed.linear(column, dict(zip(arms, row.tolist(), strict=True)))
        for column, row in zip(columns, weights, strict=True)
    }
    scores = np.array([crossed[arm].value for arm in arms])
    residuals = scores - design @ (weights @ scores)
    misfit = float(np.sqrt(residuals @ residuals / spare)) if spare else None
    return ShareRegression(values, columns, len(arms), rank, misfit, spare, None)


def design_matrix(amounts: Mapping[str, Mapping[str, float]], sources: Sequence[str]) -> tuple[Floats, tuple[str, ...]]:
    """Rows of the arms, float64 [arms, columns], and the columns' names."""
    table = np.array([[mix.get(source, 0.0) for source in sources] for mix in amounts.values()], dtype=np.float64)
    table = table.reshape(len(amounts), len(sources))
    sizes = table.sum(1)
    shares = table / sizes[:, None]
    if len(set(sizes.tolist())) < 2:
        return shares, tuple(sources)
    doublings = np.log2(sizes)
    return np.column_stack([shares, doublings - doublings.mean()]), (*sources, "log2 size")


def _reason(design: Floats, columns: Sequence[str], rank: int) -> str:
    """Names the columns that some combination of the others gives: those in the design's null space."""
    if not columns:
        return "not identifiable: no arm saw a source"
    _, _, right = np.linalg.svd(design)
    tangled = [column for column, part in zip(columns, np.abs(right[rank:]).max(0), strict=True) if part > 1e-8]
    return (
        f"not identifiable: {len(design)} arms give rank {rank}, {len(columns)} columns need {len(columns)}; "
        f"the arms don't tell apart {', '.join(tangled)}"
    )


@dataclass(frozen=True)
class Design:
    """What the arms were pretrained on.

    `amounts[arm][source]` is how much of a source an arm saw, in one unit for all (cases, hours or frames); sources
    with none may be missing. `init` is the arm that saw none: the network that all others start from. `shared` are
    pairs of sources with cases in common.
    """

    amounts: Mapping[str, Mapping[str, float]]
    init: str
    shared: Collection[frozenset[str]] = ()

    def __post_init__(self) -> None:
        for arm, sources in self.amounts.items():
            if any(amount < 0 for amount in sources.values()):
                raise TrocarError(f"arm {arm!r} has a negative amount of a source: {dict(sources)}")
        if self.amount(self.init):
            raise TrocarError(f"{self.init!r} is the init of the arms, but saw {self.amount(self.init)}")

    def amount(self, arm: str) -> dict[str, float]:
        """Sources of an arm with more than nothing of them; empty for the init."""
        return {source: amount for source, amount in self.amounts.get(arm, {}).items() if amount > 0}

    @property
    def arms(self) -> list[str]:
        """The arms that saw something."""
        return [arm for arm in self.amounts if self.amount(arm)]

    @property
    def sources(self) -> list[str]:
        """Every source that an arm saw, in the order of the arms."""
        return list(dict.fromkeys(source for arm in self.arms for source in self.amount(arm)))


@dataclass(frozen=True)
class SourceContrast(Result):
    """`arm` - `reference`, which differ in `source` by `amount` of it; in a swap as much of `against` went out."""

    source: str
    against: str | None
    amount: float
    arm: str
    reference: str
    estimate: Estimate


@dataclass(frozen=True)
class SourceValue(Result):
    """`single`: one source alone - init. `left_out`: an arm - the arm without one source and the same of all others
    (its size is smaller by that). `swaps`: arms of one size where as much of one source stands for another.

    `shapley` and `regression` are values, or their `reason` says why they are not identifiable.
    """

    single: tuple[SourceContrast, ...]
    left_out: tuple[SourceContrast, ...]
    swaps: tuple[SourceContrast, ...]
    shapley: Shapley
    regression: ShareRegression


def source_value(crossed: Crossed, design: Design) -> SourceValue:
    """All comparisons of sources that the arms allow. Raises TrocarError if an arm of the design has no scores."""
    for arm in [design.init, *design.arms]:
        if arm not in crossed.arms:
            raise TrocarError(f"arm {arm!r} of the design was not scored{nearest(arm, crossed.arms)}")
    amounts = {arm: design.amount(arm) for arm in design.arms}
    return SourceValue(
        single=tuple(_single(crossed, design.init, amounts)),
        left_out=tuple(_left_out(crossed, amounts)),
        swaps=tuple(_swaps(crossed, amounts)),
        shapley=shapley(crossed, amounts, design.sources, design.init, design.shared),
        regression=share_regression(crossed, amounts, design.sources),
    )


def _single(crossed: Crossed, init: str, amounts: Mapping[str, Mapping[str, float]]) -> list[SourceContrast]:
    alone = [(arm, *next(iter(mix.items()))) for arm, mix in amounts.items() if len(mix) == 1]
    return [
        SourceContrast(source, None, amount, arm, init, crossed.difference(arm, init)) for arm, source, amount in alone
    ]


def _left_out(crossed: Crossed, amounts: Mapping[str, Mapping[str, float]]) -> list[SourceContrast]:
    found = []
    for arm, mix in amounts.items():
        for source, amount in mix.items() if len(mix) > 1 else ():
            rest = {other: much for other, much in mix.items() if other != source}
            for reference in (name for name, other in amounts.items() if other == rest):
                difference = crossed.difference(arm, reference)
                found.append(SourceContrast(source, None, amount, arm, reference, difference))
    return found


def _swaps(crossed: Crossed, amounts: Mapping[str, Mapping[str, float]]) -> list[SourceContrast]:
    """Each pair of arms once, the arm that comes first in the design as `arm`."""
    found = []
    names = list(amounts)
    for i, arm in enumerate(names):
        for reference in names[i + 1 :]:
            moved = _moved(amounts[arm], amounts[reference])
            if len(moved) == 2 and isclose(moved[0][1], -moved[1][1]):
                (source, amount), (against, _) = sorted(moved, key=lambda entry: -entry[1])
                difference = crossed.difference(arm, reference)
                found.append(SourceContrast(source, against, amount, arm, reference, difference))
    return found


def _moved(a: Mapping[str, float], b: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    both = dict.fromkeys([*a, *b])
    return [(source, a.get(source, 0) - b.get(source, 0)) for source in both if a.get(source, 0) != b.get(source, 0)]
