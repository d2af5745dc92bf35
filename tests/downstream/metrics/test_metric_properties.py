"""What holds for every registered metric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_factory import listed, random_multiclass, random_multilabel, triplet_outcome

from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.metrics.registry import metrics_of
from trocar.downstream.predictions.prediction_file import Key
from trocar.downstream.predictions.prediction_scores import RunScores
from trocar.downstream.tasks import frame_tasks, get_task
from trocar.errors import ConfigError

# Scores that weigh columns or classes by their place.
ORDERED = ("relaxed", "pitvis_official", "ap@c")


def outcome_of(task: str, seed: int) -> Outcome:
    if task in ("phase", "step"):
        return random_multiclass(seed)
    if task == "triplet":
        return triplet_outcome(seed)
    return random_multilabel(seed, classes={"cvs": 3, "tools": 19}[task])


def same(a: float, b: float) -> bool:
    return (np.isnan(a) and np.isnan(b)) or a == pytest.approx(b, abs=1e-9)


@pytest.mark.parametrize("task", frame_tasks())
def test_the_examples_are_offered_every_metric(task: str) -> None:
    assert set(metrics_of(task, outcome_of(task, 0))) == set(get_task(task).named)
    assert next(iter(metrics_of(task, outcome_of(task, 0)))) == get_task(task).headline


@pytest.mark.parametrize("task", frame_tasks())
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), times=st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
def test_a_case_of_weight_k_counts_like_the_case_listed_k_times(task: str, seed: int, times: list[int]) -> None:
    outcome = outcome_of(task, seed)
    repeated = listed(outcome, times)
    for name, metric in metrics_of(task, outcome).items():
        assert same(metric(outcome, np.array(times, dtype=float)), metric(repeated, None)), name


@pytest.mark.parametrize("task", frame_tasks())
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
def test_the_order_of_cases_does_not_matter(task: str, seed: int, order: list[int]) -> None:
    outcome = outcome_of(task, seed)
    renumbered = replace(outcome, case=np.array(order)[outcome.case])
    for name, metric in metrics_of(task, outcome).items():
        assert same(metric(outcome, None), metric(renumbered, None)), name


@pytest.mark.parametrize("task", frame_tasks())
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_classes_does_not_matter(task: str, seed: int) -> None:
    outcome = outcome_of(task, seed)
    order = np.random.default_rng(seed).permutation(outcome.scores.shape[1])
    place = np.argsort(order)
    single = outcome.gt.ndim == 1
    moved = replace(
        outcome,
        gt=place[outcome.gt] if single else outcome.gt[:, order],
        pred=place[outcome.pred] if single else outcome.pred[:, order],
        scores=outcome.scores[:, order],
        soft=None if outcome.soft is None else outcome.soft[:, order],
        classes=tuple(outcome.classes[i] for i in order) if outcome.classes else (),
    )
    for name, metric in metrics_of(task, moved).items():
        if not any(part in name for part in ORDERED):
            assert same(metric(outcome, None), metric(moved, None)), name


@pytest.mark.parametrize("task", frame_tasks())
def test_a_perfect_prediction_is_perfect_whatever_is_absent(task: str) -> None:
    outcome = outcome_of(task, 1)
    truth = np.eye(7)[outcome.gt] if outcome.gt.ndim == 1 else outcome.gt.astype(float)
    soft = None if outcome.soft is None else truth
    perfect = replace(outcome, pred=outcome.gt, scores=truth, soft=soft)
    errors = {"ece", "brier", "nll", "brier@soft", "brier@rounded"}
    # These say in their descriptions that an absent class costs.
    punished = {name for name in get_task(task).named if "macro_all" in name or name == "map@absent_zero"}
    for name, metric in metrics_of(task, perfect).items():
        value = metric(perfect, None)
        if name in errors:
            assert value == pytest.approx(0, abs=1e-12), name
        elif name in punished:
            assert value < 1, name
        elif not np.isnan(value):
            assert value == pytest.approx(1), name
        else:
            assert name == "ap@c3", name  # the factory's last class never occurs


def test_labels_alone_get_the_metrics_that_need_no_scores() -> None:
    outcome = random_multiclass(0)
    alone = metrics_of("phase", replace(outcome, scores=np.full_like(outcome.scores, np.nan)))
    assert set(get_task("phase").named) - set(alone) == {"map", "ece", "brier", "nll"}


def test_undefined_values_have_no_interval_and_intervals_enclose_the_value() -> None:
    outcome = random_multilabel(0, cases=8, classes=3)
    metrics = {name: (metric, outcome) for name, metric in metrics_of("cvs", outcome).items()}
    found = RunScores(Key("cvs", "", ""), outcome, tuple("abcdefgh"), metrics, draws=200)
    assert np.isnan(found.value("ap@c3"))
    assert found.interval("ap@c3") is None
    for name in ("map", "ap@c1", "balanced_accuracy"):
        low, high = found.interval(name) or (1, 0)
        assert low < found.value(name) < high


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'phase'"):
        metrics_of("phases", random_multiclass(0))
