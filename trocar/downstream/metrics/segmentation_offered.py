"""Which metrics of masks mean something where a background class is declared, and where none is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from trocar.downstream.metrics.segmentation import (
    SEGMENTATION_METRICS,
    SURFACE_METRICS,
    surface_class_then_image,
    surface_empty_1,
)
from trocar.downstream.metrics.segmentation_outcome import SegmentationMetric

NO_BACKGROUND = "_no_background"
LEAD = f"iou@dataset{NO_BACKGROUND}"
"""What tables lead with where a background is declared: a mask of nothing else scores 0 there."""
WHOLE = "iou@dataset"
"""What tables lead with elsewhere, and what selects epochs everywhere."""


def mask_metrics(background: int | None) -> Mapping[str, SegmentationMetric]:
    """Metrics of outcomes with this background class by name, the one that tables lead with first; without one, those
    "without background" are left out.
    """
    if background is None:
        return {name: metric for name, metric in SEGMENTATION_METRICS.items() if not name.endswith(NO_BACKGROUND)}
    return {LEAD: SEGMENTATION_METRICS[LEAD], **SEGMENTATION_METRICS}


def surface_metrics(background: int | None) -> Mapping[str, SegmentationMetric]:
    """The same of those that need `SegmentationOutcome.surface`; without a background class over all classes."""
    if background is not None:
        return SURFACE_METRICS
    return {
        "nsd@class_then_image": partial(surface_class_then_image, background=True),
        "nsd@empty_1": partial(surface_empty_1, background=True),
    }


def in_tables(background: int | None) -> tuple[str, ...]:
    """Names of the metrics in tables of comparisons, the one that leads first."""
    if background is None:
        return (WHOLE, "dice@dataset", "iou@image_present_gt", "iou@patient_pooled")
    return (LEAD, WHOLE, "dice@dataset_no_background", "iou@image_present_gt", "iou@patient_pooled_no_background")


def class_lines(classes: Sequence[str], background: str) -> dict[str, str]:
    """Class -> its line in a table of classes, the background last and marked where its name does not say it."""
    last = background if background.lower() == "background" else f"{background} (background)"
    return {name: name for name in classes if name != background} | {background: last}
