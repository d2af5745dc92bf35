"""A class for every pixel of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trocar.downstream.labels import LabelledFrames, LabelSpace
from trocar.downstream.metrics.outcome import Floats, Metric
from trocar.downstream.metrics.registry import in_tables
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS
from trocar.downstream.metrics.segmentation_outcome import SegmentationMetric
from trocar.downstream.tasks.base import Task


@dataclass(frozen=True)
class SegmentationTask(Task):
    """Scored on masks: its metrics take confusion matrices of images, not labels of frames."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """None for labels of frames."""
        return {}

    def targets(self, data: LabelledFrames) -> Floats:
        """0 for a frame with a mask, -1 for one without: the masks themselves are read when they are needed."""
        found: Floats = data.space(self.name).known(data.frames).astype(np.float64) - 1
        return found

    def in_tables(self, space: LabelSpace) -> tuple[str, ...]:
        """Where the data set declares a background, they lead without it: most pixels are background, so a mask of it
        alone has a high mean with it.
        """
        return in_tables(space.background)

    def mask_metrics(self, space: LabelSpace) -> Mapping[str, SegmentationMetric]:
        """The metrics in tables, the one that they lead with first."""
        return {name: SEGMENTATION_METRICS[name] for name in self.in_tables(space)}


TASK = SegmentationTask("segmentation", in_tables(None)[1:])
