"""Which tools a frame shows: any number of them."""

from __future__ import annotations

import numpy as np

from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.metrics import tools as metrics
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.tasks.base import Task


def _classes(data: LabelledFrames) -> tuple[str, ...]:
    return data.tools


def _targets(data: LabelledFrames) -> Ints:
    targets: Ints = data.frames[list(data.tools)].to_numpy(np.int64)
    return targets


TOOLS = Task(
    name="tools",
    kind="multilabel",
    headline="map@pooled",
    metrics={"map@pooled": metrics.map_pooled, "map@case": metrics.map_case},
    per_class=("ap", metrics.ap_per_tool),
    classes=_classes,
    targets=_targets,
)
