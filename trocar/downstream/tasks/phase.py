"""Surgical phase of a frame: one of the procedure's phases.

Macro F1 is the headline because two phases are half of an operation: accuracy rewards predicting those two.
"""

from __future__ import annotations

from trocar.downstream.metrics.phase import f1_per_class
from trocar.downstream.tasks.base import Task

TASK = Task("phase", ("f1@video_macro_A", "accuracy@pooled", "accuracy@video"), ("f1", f1_per_class))
