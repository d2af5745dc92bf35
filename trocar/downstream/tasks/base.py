"""What a task is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.metrics.outcome import Floats, Metric, Outcome


@dataclass(frozen=True)
class Task:
    """A thing to predict from a frame; a data set's label space of the same name says how it is labelled.

    `headline` is the one metric that tables and model selection use; `per_class` gives a value per class for the
    details.
    """

    name: str
    headline: str
    metrics: Mapping[str, Metric]
    per_class: tuple[str, Callable[[Outcome], Floats]]

    def targets(self, data: LabelledFrames) -> Floats:
        """Labels of all frames as they stand in the table: [N] of class indices, [N, K] of values; -1 is unlabelled."""
        space = data.space(self.name)
        values: Floats = data.frames[list(space.columns)].to_numpy()
        return values[:, 0] if space.kind == "multiclass" else values

    def score(self, outcome: Outcome) -> float:
        """The headline."""
        return self.metrics[self.headline](outcome, None)
