"""A metric can be added to a task from outside."""

from __future__ import annotations

import pytest
from metrics_factory import random_multiclass
from registry_factory import changeable

from trocar.downstream.metrics.outcome import Named, Outcome
from trocar.downstream.metrics.registry import metric_named, metrics_of
from trocar.downstream.tasks import frame_tasks, get_task
from trocar.downstream.tasks.base import METRICS, AddedMetric
from trocar.errors import ConfigError


def half(outcome: Outcome, weights: object = None) -> float:
    return 0.5


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    changeable(METRICS, monkeypatch)


def test_an_added_metric_is_computed_with_the_task_s_own_and_can_be_compared_in_a_study() -> None:
    METRICS.register(AddedMetric("phase", "half@always", Named(half)))
    METRICS.register(AddedMetric("phase", "half@never", Named(half, lambda outcome: False)))
    found = metrics_of("phase", random_multiclass(0))
    assert found["half@always"](random_multiclass(0), None) == 0.5
    assert "half@never" not in found
    assert next(iter(found)) == "f1@pooled_macro"
    assert metric_named("phase", "half@always")(random_multiclass(0), None) == 0.5
    assert "half@always" not in get_task("step").named
    assert "half@always" not in get_task("phase").metrics  # tables keep the metrics that the task shows


def test_a_name_that_the_task_has_already_is_refused_with_both_places() -> None:
    METRICS.register(AddedMetric("phase", "accuracy@pooled", Named(half)))
    words = "two metrics of phase are called 'accuracy@pooled': trocar.*own_tasks and test_added_metrics"
    with pytest.raises(ConfigError, match=words):
        metrics_of("phase", random_multiclass(0))


@pytest.mark.parametrize("name", frame_tasks())
def test_headline_and_shown_metrics_of_every_task_are_among_its_metrics(name: str) -> None:
    task = get_task(name)
    assert {task.headline, *task.shown} <= task.named.keys()
