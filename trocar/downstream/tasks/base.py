"""What a task is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from trocar.downstream.labels import LabelledFrames, LabelSpace
from trocar.downstream.metrics.outcome import AnyMetric, Floats, Outcome
from trocar.downstream.metrics.registry import HEADLINES, named_metrics


@dataclass(frozen=True)
class Task:
    """A thing to predict from a frame; a data set's label space of the same name says how it is labelled.

    `shown` are the metrics in tables, beside the headline that also model selection uses; every other metric of the
    task is in metrics.json. `per_class` is the score of every class, [K], with its name. `masks` says that its labels
    and predictions are masks.
    """

    name: str
    shown: tuple[str, ...]
    per_class: tuple[str, Callable[[Any], Floats]]
    masks: ClassVar[bool] = False

    @property
    def headline(self) -> str:
        """The one metric that model selection uses, and tables lead with unless `in_tables` says otherwise."""
        return HEADLINES[self.name]

    @property
    def metrics(self) -> Mapping[str, AnyMetric]:
        """The metrics in tables, the headline first."""
        return {name: named_metrics(self.name)[name].metric for name in (self.headline, *self.shown)}

    def in_tables(self, space: LabelSpace) -> tuple[str, ...]:
        """Names of the metrics in tables of a data set with these labels, the one that they lead with first."""
        return (self.headline, *self.shown)

    def targets(self, data: LabelledFrames) -> Floats:
        """Labels of all frames as they stand in the table: [N] of class indices, [N, K] of values; -1 is unlabelled."""
        space = data.space(self.name)
        values: Floats = data.frames[list(space.columns)].to_numpy()
        return values[:, 0] if space.kind == "multiclass" else values

    def score(self, outcome: Outcome) -> float:
        """The headline."""
        return self.metrics[self.headline](outcome, None)
