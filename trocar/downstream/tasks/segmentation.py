"""A class for every pixel of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trocar.downstream.labels import LabelledFrames, LabelSpace
from trocar.downstream.metrics.outcome import Floats
from trocar.downstream.metrics.registry import MASKS, WHOLE, in_tables
from trocar.downstream.metrics.segmentation import per_class
from trocar.downstream.tasks.base import TASKS, Task


@dataclass(frozen=True)
class SegmentationTask(Task):
    """Scored on masks: its metrics take confusion matrices of images, not labels of frames."""

    masks: ClassVar[bool] = True

    def targets(self, data: LabelledFrames) -> Floats:
        """0 for a frame with a mask, -1 for one without: the masks themselves are read when they are needed."""
        found: Floats = data.space(self.name).known(data.frames).astype(np.float64) - 1
        return found

    def in_tables(self, space: LabelSpace) -> tuple[str, ...]:
        """Where the data set declares a background, they lead without it: most pixels are background, so a mask of it
        alone has a high mean with it.
        """
        return in_tables(space.background)


SEGMENTATION = TASKS.register(
    SegmentationTask("segmentation", "mask", WHOLE, in_tables(None)[1:], ("iou", per_class), MASKS)
)
"""A class for every pixel of a frame."""
