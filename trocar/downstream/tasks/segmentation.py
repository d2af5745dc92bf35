"""A class for every pixel of a frame."""

from __future__ import annotations

from dataclasses import dataclass

from trocar.downstream.metrics.registry import MASKS
from trocar.downstream.metrics.segmentation import per_class
from trocar.downstream.tasks.base import TASKS, Task


@dataclass(frozen=True)
class SegmentationTask(Task):
    """Scored on masks: its metrics take confusion matrices of images, not labels of frames.

    `shown_with_background`: what tables show where the data set declares a background, the metric that they lead with
    first; without it they show the same as elsewhere.
    """

    shown_with_background: tuple[str, ...] = ()

    def shown_where(self, background: int | None) -> tuple[str, ...]:
        """As of every task, or `shown_with_background`."""
        without = super().shown_where(background)
        return without if background is None else self.shown_with_background or without


SEGMENTATION = TASKS.register(
    SegmentationTask(
        name="segmentation",
        kind="mask",
        headline="iou@dataset",
        shown=("dice@dataset", "iou@image_present_gt", "iou@patient_pooled"),
        per_class=("iou", per_class),
        own_metrics=MASKS,
        # Most pixels are background: a mask of nothing else scores high with it, and 0 without.
        shown_with_background=(
            "iou@dataset_no_background",
            "iou@dataset",
            "dice@dataset_no_background",
            "iou@image_present_gt",
            "iou@patient_pooled_no_background",
        ),
    )
)
"""A class for every pixel of a frame."""
