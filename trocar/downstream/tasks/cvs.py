"""Critical view of safety: the three criteria of Strasberg, each met or not, by one or several annotators."""

from __future__ import annotations

from trocar.downstream.metrics.ranking import ap_pooled
from trocar.downstream.tasks.base import Task

TASK = Task("cvs", ("balanced_accuracy", "brier@soft"), ("ap", ap_pooled))
