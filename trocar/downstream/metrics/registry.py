"""Every metric by task and name. docs/metrics.md says of each what it is, who reports it and what to beware of."""

from __future__ import annotations

from trocar.downstream.metrics import calibration, cvs, phase, relaxed, segmental, tools, triplets
from trocar.downstream.metrics.outcome import Metric, Named, Outcome
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
