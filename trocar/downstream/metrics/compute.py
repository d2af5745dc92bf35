"""Every named metric of an outcome, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypedDict

from trocar.downstream.metrics import pitvis
from trocar.downstream.metrics.interval import Predicted, bootstrap_interval
from trocar.downstream.metrics.outcome import Floats, Metric, Outcome
from trocar.downstream.metrics.registry import metrics_of

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
