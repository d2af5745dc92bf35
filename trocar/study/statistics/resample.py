"""The expensive half of the crossed bootstrap: the metric of every seed of every arm on the same draws of cases.

What every result of the statistics can do: be written as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.errors import TrocarError


@dataclass(frozen=True)
class Result:
    """Base of the frozen results."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values for `json.dumps(..., allow_nan=False)`: NaN and infinities become None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def plain(value: Any) -> Any:
    """`value` in dicts, lists, strings, numbers and None; keys become strings. Raises TypeError for anything else."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Result):
        return value.to_json()
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(entry) for entry in value)
    raise TypeError(f"{type(value).__name__} has no plain form" + (" (not a Result)" if is_dataclass(value) else ""))


class ArmOutcome(Protocol):
    """What the statistics ask of an outcome: `case` int64 [n], 0 .. cases - 1. The rest is the metric's."""

    @property
    def case(self) -> Ints:
        """int64 [n], 0 .. cases - 1."""

    @property
    def cases(self) -> int:
        """Number of cases."""


O = TypeVar("O", bound=ArmOutcome)  # noqa: E741
CaseMetric = Callable[[O, "Floats | None"], float]
"""metric(outcome, weights over cases): the named metric, recomputed from the predictions."""


@dataclass(frozen=True)
class Arm(Generic[O]):
    """Predictions of one arm on the shared test cases.

    `seeds` has one entry per pretraining seed: its runs (fine-tuning seeds, draws of the labelled cases), which are
    averaged. An arm that isn't pretrained here has its fine-tuning seeds in their place. `fixed`: nothing about the
    arm is drawn (a given backbone under a protocol without chance), so that its one run leaves nothing out.

    Draws of labelled cases that are the same for every seed are averaged as well: intervals then hold for those draws.
    """

    name: str
    seeds: tuple[tuple[O, ...], ...]
    fixed: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or not all(self.seeds):
            raise TrocarError(f"arm {self.name!r} has a seed without a run; leave out seeds that failed")


@dataclass(frozen=True)
class Resampled:
    """A metric of one arm: `values` float64 [S], one per seed, and `drawn` float64 [S, draws], the same on every draw
    of the test cases (NaN where a draw leaves the metric undefined). `cases` is their number.
    """

    name: str
    values: Floats
    drawn: Floats
    cases: int
    fixed: bool = False

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @cached_property
    def case_part(self) -> Floats:
        """What the draw of cases does to the mean over seeds, float64 [draws]."""
        part: Floats = self.drawn.mean(0) - self.value
        return part

    @property
    def seed_variance(self) -> float:
        """Variance of the mean over seeds, from their scatter; 0 where there is one.

        Resampling the mean of S values has exactly (S - 1) / S of this variance, so nothing is drawn for it. It
        includes the interaction of seeds and cases, which the draws of cases include too: counted twice, an interval
        is a little wide where the interaction is large.
        """
        return float(np.var(self.values, ddof=1)) / self.seeds if self.seeds > 1 else 0.0


def draw_cases(cases: int, draws: int, seed: int = 0) -> Floats:
    """How often each case counts, float64 [draws, cases]: the one set of draws for all arms, seeds and budgets."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    return generator.multinomial(cases, np.full(cases, 1 / cases), size=draws).astype(np.float64)


def resample(arm: Arm[O], metric: CaseMetric[O], drawn: Floats) -> Resampled:
    """`metric` of every seed of `arm` on all cases and on the draws [draws, cases].

    The metric is called once per run and draw: all intervals and contrasts of a study come from this one table.
    Raises TrocarError if an outcome has other cases than the draws.
    """
    cases = drawn.shape[1]
    for outcome in (run for seed in arm.seeds for run in seed):
        if outcome.cases != cases:
            raise TrocarError(
                f"arm {arm.name!r} was scored on {outcome.cases} test cases, others on {cases}; score all arms on the "
                "same cases"
            )
    values = [float(np.mean([metric(run, None) for run in seed])) for seed in arm.seeds]
    table = [np.mean([[metric(run, weights) for weights in drawn] for run in seed], axis=0) for seed in arm.seeds]
    return Resampled(arm.name, np.array(values), np.array(table).reshape(len(values), -1), cases, arm.fixed)


def combine(name: str, parts: Sequence[tuple[float, Resampled]]) -> Resampled:
    """The weighted sum of metrics of the same seeds on the same cases: seed s of every part is one pretraining."""
    first: Any = parts[0][1]
    values = np.sum([weight * part.values for weight, part in parts], axis=0)
    drawn = np.sum([weight * part.drawn for weight, part in parts], axis=0)
    return Resampled(name, values, drawn, first.cases, all(part.fixed for _, part in parts))
