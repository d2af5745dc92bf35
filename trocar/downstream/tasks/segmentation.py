"""A class for every pixel of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.metrics.outcome import Floats, Metric
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS
from trocar.downstream.metrics.segmentation_outcome import SegmentationMetric
from trocar.downstream.tasks.base import Task


@dataclass(frozen=True)
class Segmentation(Task):
    """Scored on masks: its metrics take confusion matrices of images, not labels of frames."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """None for labels of frames."""
        return {}

    def targets(self, data: LabelledFrames) -> Floats:
        """0 for a frame with a mask, -1 for one without: the masks themselves are read when they are needed."""
        found: Floats = data.space(self.name).known(data.frames).astype(np.float64) - 1
        return found

    @property
    def mask_metrics(self) -> Mapping[str, SegmentationMetric]:
        """The metrics in tables, the headline first."""
        return {name: SEGMENTATION_METRICS[name] for name in (self.headline, *self.shown)}


TASK = Segmentation("segmentation", ("dice@dataset", "iou@image_present_gt", "iou@patient_pooled_no_background"))
