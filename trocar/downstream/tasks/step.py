"""Step of a frame: finer than a phase, scored like one."""

from __future__ import annotations

from trocar.downstream.metrics.phase import f1_per_class
from trocar.downstream.tasks.base import Task

TASK = Task("step", ("f1@video_macro_A", "accuracy@pooled", "accuracy@video"), ("f1", f1_per_class))
