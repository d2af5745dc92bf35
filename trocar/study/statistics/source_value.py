"""What each pretraining source was worth, by the comparisons that the arms of a study allow.

Contrasts first: they need no model. A Shapley value or a regression only where the arms identify one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isclose

from trocar.errors import TrocarError, nearest
from trocar.study.statistics.crossed import Crossed, Estimate
from trocar.study.statistics.result import Result
from trocar.study.statistics.shapley import Shapley, shapley
from trocar.study.statistics.share_regression import ShareRegression, share_regression


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
