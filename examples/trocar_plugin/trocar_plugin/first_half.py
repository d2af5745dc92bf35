"""A metric that is added to a task of Trocar's own: accuracy of phases in the first half of each operation."""

from __future__ import annotations

import numpy as np

from trocar import register_metric
from trocar.downstream.metrics.outcome import Floats, Named, Outcome, frame_weights
from trocar.downstream.tasks.base import AddedMetric


def accuracy_first_half(outcome: Outcome, weights: Floats | None = None) -> float:
    """Share of right frames among the first half of each case's frames; these are in the order of time."""
    early = np.zeros(len(outcome.case), dtype=bool)
    for rows in outcome.rows_of_case:
        early[rows[: (len(rows) + 1) // 2]] = True
    counted = frame_weights(outcome, weights) * early
    return float(counted @ (outcome.gt == outcome.pred) / counted.sum())


ACCURACY = register_metric(AddedMetric("phase", "accuracy@first_half", Named(accuracy_first_half)))
