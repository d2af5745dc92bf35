"""Which tools a frame shows: any number of them."""

from __future__ import annotations

from trocar.downstream.metrics import tools as metrics
from trocar.downstream.tasks.base import Task

TASK = Task(
    name="tools",
    headline="map@pooled",
    metrics={"map@pooled": metrics.map_pooled, "map@case": metrics.map_case},
    per_class=("ap", metrics.ap_per_tool),
)
