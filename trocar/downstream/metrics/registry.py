"""The metrics of tasks as they are computed: which mean something for an outcome, with their intervals.

docs/metrics.md says of each what it is, who reports it and what to beware of. Some metrics of masks only mean something
where a background class is declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from trocar.downstream.metrics import challenges
from trocar.downstream.metrics.outcome import (
    AnyMetric,
    AnyOutcome,
    Named,
    Outcome,
    SegmentationMetric,
    SegmentationOutcome,
    always,
)
from trocar.downstream.metrics.segmentation import (
    SEGMENTATION_METRICS,
    SURFACE_METRICS,
    surface_class_then_image,
    surface_empty_1,
)
from trocar.downstream.tasks import get_task
from trocar.errors import ConfigError, nearest

NO_BACKGROUND = "_no_background"


def _has_background(outcome: SegmentationOutcome) -> bool:
    return outcome.background is not None


MASKS = {
    name: Named(metric, _has_background if name.endswith(NO_BACKGROUND) else always)
    for name, metric in SEGMENTATION_METRICS.items()
}


def named_metrics(task: str) -> Mapping[str, Named]:
    """Every metric of a task, of frames or of masks, by name. Raises ConfigError for an unknown task."""
    return get_task(task).named


def metrics_of(task: str, outcome: AnyOutcome) -> dict[str, AnyMetric]:
    """The metrics of `task` that mean something for `outcome`, the one that tables lead with first. Raises ConfigError
    for an unknown task.
    """
    found = {name: one.metric for name, one in named_metrics(task).items() if one.offered(outcome)}
    background = outcome.background if isinstance(outcome, SegmentationOutcome) else None
    lead = get_task(task).shown_where(background)[0]
    return dict(sorted(found.items(), key=lambda entry: entry[0] != lead))


def metric_named(task: str, name: str) -> AnyMetric:
    """A metric of a task; NaN for outcomes that it means nothing for. Raises ConfigError with the nearest name."""
    known = named_metrics(task)
    if name not in known:
        raise ConfigError(f"no metric {name!r}{nearest(name, known)}; metrics of {task}: {', '.join(known)}")
    named = known[name]
    return lambda outcome, weights: named.metric(outcome, weights) if named.offered(outcome) else float("nan")


def surface_metrics(background: int | None) -> Mapping[str, SegmentationMetric]:
    """The same of those that need `SegmentationOutcome.surface`; without a background class over all classes."""
    if background is not None:
        return SURFACE_METRICS
    return {
        "nsd@class_then_image": partial(surface_class_then_image, background=True),
        "nsd@empty_1": partial(surface_empty_1, background=True),
    }


def class_lines(classes: Sequence[str], background: str) -> dict[str, str]:
    """Class -> its line in a table of classes, the background last and marked where its name does not say it."""
    last = background if background.lower() == "background" else f"{background} (background)"
    return {name: name for name in classes if name != background} | {background: last}


MULTITASK: dict[str, challenges.Multitask] = {
    "multitask@pitvis": partial(challenges.multitask, official=False),
    "multitask@pitvis_official": partial(challenges.multitask, official=True),
}
"""Metrics of a step outcome and a tool outcome of the same frames."""


def multitask_metrics(steps: Outcome, tools: Outcome) -> dict[str, AnyMetric]:
    """The PitVis scores of steps and instruments together, as metrics of the steps; none where `tools` are not PitVis'
    or the cases are not the same number.
    """
    if not challenges.has_instruments(tools) or steps.cases != tools.cases:
        return {}

    def joined(metric: challenges.Multitask) -> AnyMetric:
        return lambda steps, weights: metric(steps, tools, weights)

    return {name: joined(metric) for name, metric in MULTITASK.items()}
