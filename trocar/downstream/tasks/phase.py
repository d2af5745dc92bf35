"""Surgical phase of a frame: one of the procedure's phases."""

from __future__ import annotations

import numpy as np

from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.metrics import phase as metrics
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.metrics.registry import HEADLINES, REGISTRY
from trocar.downstream.tasks.base import Task


def _classes(data: LabelledFrames) -> tuple[str, ...]:
    return data.phases


def _targets(data: LabelledFrames) -> Ints:
    return data.frames["phase"].to_numpy(np.int64)


SHOWN = ("f1@pooled_macro", "f1@video_macro_A", "accuracy@pooled", "accuracy@video")

# Macro F1 is the headline because two phases are half of an operation: accuracy rewards predicting those two.
PHASE = Task(
    name="phase",
    kind="multiclass",
    headline=HEADLINES["phase"],
    metrics={name: REGISTRY["phase"][name].metric for name in SHOWN},
    per_class=("f1", metrics.f1_per_class),
    classes=_classes,
    targets=_targets,
)
