"""Surgical phase of a frame: one of the procedure's phases."""

from __future__ import annotations

from trocar.downstream.metrics import phase as metrics
from trocar.downstream.metrics.outcome import Floats, Outcome
from trocar.downstream.tasks.base import Task


def _f1(outcome: Outcome) -> Floats:
    return metrics.f1_scores(metrics.confusion(outcome))


# Macro F1 is the headline because two phases are half of an operation: accuracy rewards predicting those two.
TASK = Task(
    name="phase",
    headline="f1@pooled_macro",
    metrics={
        "f1@pooled_macro": metrics.f1_pooled_macro,
        "f1@video_macro": metrics.f1_video_macro,
        "accuracy@pooled": metrics.accuracy_pooled,
        "accuracy@video": metrics.accuracy_video,
    },
    per_class=("f1", _f1),
)
