"""What a task is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.metrics.outcome import Floats, Ints, Metric, Outcome
from trocar.errors import ConfigError

Kind = Literal["multiclass", "multilabel"]


@dataclass(frozen=True)
class Task:
    """A thing to predict from one frame.

    `kind` says what a target is: one class index (int64 [n]) or one 0/1 per class (int64 [n, K]). `headline`
    is the one metric that tables and model selection use; `per_class` gives a value per class for the
    details.
    """

    name: str
    kind: Kind
    headline: str
    metrics: Mapping[str, Metric]
    per_class: tuple[str, Callable[[Outcome], Floats]]
    classes: Callable[[LabelledFrames], tuple[str, ...]]
    targets: Callable[[LabelledFrames], Ints]

    def rows(self, data: LabelledFrames) -> Ints:
        """Indices of the frames that carry this task's labels. Raises ConfigError if none does."""
        if not self.classes(data):
            raise ConfigError(f"{data.root} has no labels for the task {self.name!r}")
        targets = self.targets(data)
        known = targets >= 0 if self.kind == "multiclass" else (targets >= 0).all(axis=1)
        if not known.any():
            raise ConfigError(f"{data.root} has no labels for the task {self.name!r}")
        return np.flatnonzero(known)

    def score(self, outcome: Outcome) -> float:
        """The headline."""
        return self.metrics[self.headline](outcome, None)
