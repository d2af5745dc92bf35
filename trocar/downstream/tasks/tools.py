"""Which tools a frame shows: any number of them."""

from __future__ import annotations

from trocar.downstream.metrics.ranking import ap_pooled
from trocar.downstream.tasks.base import Task

TASK = Task("tools", ("map@case",), ("ap", ap_pooled))
