"""Which tools a frame shows: any number of them."""

from __future__ import annotations

import numpy as np

from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.metrics.ranking import ap_pooled
from trocar.downstream.metrics.registry import HEADLINES, REGISTRY
from trocar.downstream.tasks.base import Task


def _classes(data: LabelledFrames) -> tuple[str, ...]:
    return data.tools


def _targets(data: LabelledFrames) -> Ints:
    targets: Ints = data.frames[list(data.tools)].to_numpy(np.int64)
    return targets


TOOLS = Task(
    name="tools",
    kind="multilabel",
    headline=HEADLINES["tools"],
    metrics={name: REGISTRY["tools"][name].metric for name in ("map@pooled", "map@case")},
    per_class=("ap", ap_pooled),
    classes=_classes,
    targets=_targets,
)
