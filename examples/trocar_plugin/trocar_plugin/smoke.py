"""A task: whether smoke hides the operating field. One label a frame, so every protocol for frames can learn it."""

from __future__ import annotations

import numpy as np

from trocar import register_task
from trocar.downstream.metrics.outcome import Floats, Named, Outcome, frame_weights
from trocar.downstream.metrics.phase import accuracy_pooled, f1, f1_per_class, pooled_macro
from trocar.downstream.tasks.base import Task

CLASSES = ("clear", "smoke")


def sensitivity(outcome: Outcome, weights: Floats | None = None) -> float:
    """Share of the frames with smoke that are found; NaN where there are none."""
    counted = frame_weights(outcome, weights) * (outcome.gt == CLASSES.index("smoke"))
    found = counted * (outcome.pred == CLASSES.index("smoke"))
    return float(found.sum() / counted.sum()) if counted.sum() else float(np.nan)


def f1_macro(outcome: Outcome, weights: Floats | None = None) -> float:
    """Mean F1 of the two classes over all frames."""
    return pooled_macro(outcome, weights, measure=f1)


SMOKE = register_task(
    Task(
        name="smoke",
        kind="multiclass",
        headline="f1@pooled_macro",
        shown=("sensitivity@smoke",),
        own_metrics={
            "f1@pooled_macro": Named(f1_macro),
            "sensitivity@smoke": Named(sensitivity),
            "accuracy@pooled": Named(accuracy_pooled),
        },
        per_class=("f1", f1_per_class),
    )
)
