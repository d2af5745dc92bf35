"""Every metric by task and name. docs/metrics.md says of each what it is, who reports it and what to beware of.

Which metrics of masks mean something where a background class is declared, and where none is.

Every named metric of an outcome, with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypedDict

from trocar.downstream.metrics import calibration, cvs, phase, pitvis, relaxed, segmental, tools, triplets
from trocar.downstream.metrics.outcome import Floats, Metric, Named, Outcome, Predicted, bootstrap_interval
from trocar.downstream.metrics.segmentation import (
    SEGMENTATION_METRICS,
    SURFACE_METRICS,
    surface_class_then_image,
    surface_empty_1,
)
from trocar.downstream.metrics.segmentation_outcome import SegmentationMetric
from trocar.errors import ConfigError, nearest

_PHASE = {**phase.METRICS, **relaxed.METRICS, **segmental.METRICS, **calibration.MULTICLASS}

REGISTRY: dict[str, dict[str, Named]] = {
    "phase": _PHASE,
    "step": _PHASE,
    "tools": tools.METRICS,
    "cvs": cvs.METRICS,
    "triplet": triplets.METRICS,
}
HEADLINES = {
    "phase": "f1@pooled_macro",
    "step": "f1@pooled_macro",
    "tools": "map@pooled",
    "cvs": "map",
    "triplet": "ap_ivt@video",
    "segmentation": "iou@dataset",
}
"""The one metric per task that tables and model selection use."""

MULTILABEL = ("tools", "cvs", "triplet")
"""Tasks with any number of labels a frame."""


def metrics_of(task: str, outcome: Outcome) -> dict[str, Metric]:
    """The metrics of `task` that mean something for `outcome`, the headline first. Raises ConfigError for an
    unknown task.
    """
    if task not in REGISTRY:
        raise ConfigError(f"no task {task!r}{nearest(task, REGISTRY)}; tasks with metrics: {', '.join(REGISTRY)}")
    names = sorted(REGISTRY[task], key=lambda name: name != HEADLINES[task])
    return {name: REGISTRY[task][name].metric for name in names if REGISTRY[task][name].offered(outcome)}


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


MULTITASK: dict[str, pitvis.Multitask] = {
    "multitask@pitvis": partial(pitvis.multitask, official=False),
    "multitask@pitvis_official": partial(pitvis.multitask, official=True),
}
"""Metrics of a step outcome and a tool outcome of the same frames."""


class Value(TypedDict):
    """A metric and its 95 % interval over cases; None is undefined, or no interval."""

    value: float | None
    low: float | None
    high: float | None


def compute(outcome: Outcome, task: str, draws: int = 1000) -> dict[str, Value]:
    """All metrics of `task` that mean something for `outcome`, the headline first; `draws` of the bootstrap
    (0: no intervals). Raises ConfigError for an unknown task.
    """
    return evaluate_metrics(outcome, metrics_of(task, outcome), draws)


def compute_multitask(steps: Outcome, tools: Outcome, draws: int = 1000) -> dict[str, Value]:
    """The PitVis scores of steps and instruments together; empty where `tools` are not PitVis' or the cases
    are not the same number.
    """
    if not pitvis.has_instruments(tools) or steps.cases != tools.cases:
        return {}
    found: dict[str, Metric] = {name: _joined(metric, tools) for name, metric in MULTITASK.items()}
    return evaluate_metrics(steps, found, draws)


def evaluate_metrics(
    outcome: Predicted, metrics: Mapping[str, Callable[[Predicted, Floats | None], float]], draws: int
) -> dict[str, Value]:
    """Value and interval of each of `metrics`."""
    found: dict[str, Value] = {}
    for name, metric in metrics.items():
        low, high = bootstrap_interval(metric, [outcome], draws=draws) or (None, None)
        value = metric(outcome, None)
        found[name] = {"value": None if math.isnan(value) else value, "low": low, "high": high}
    return found


def _joined(metric: pitvis.Multitask, tools: Outcome) -> Metric:
    return lambda steps, weights: metric(steps, tools, weights)
