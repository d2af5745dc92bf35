"""Metrics as plain functions: the registry's numbers, from arrays."""

import numpy as np
import pytest
from registry_factory import changeable

import trocar.metrics as metrics
from trocar.downstream.metrics.outcome import Named, Outcome
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS
from trocar.downstream.tasks import get_task
from trocar.downstream.tasks.base import METRICS, TASKS, AddedMetric
from trocar.errors import ConfigError

LABELS = np.array([0, 0, 1, 1, 0, 0, 0, 1])
PREDICTED = np.array([0, 1, 1, 1, 0, 0, 0, 0])
CASES = ["b", "b", "b", "b", "a", "a", "a", "a"]


def test_every_registered_metric_is_a_function_of_its_readable_name():
    names = {name.replace("@", "_") for task in TASKS.values() for name in task.named}
    names |= {name.replace("@", "_") for name in SEGMENTATION_METRICS}
    assert names <= {*dir(metrics)}
    assert {*dir(metrics)} - names == {f"{measure}_video_macro" for measure in ("f1", "jaccard", "precision", "recall")}
    for name in dir(metrics):
        function = getattr(metrics, name)
        assert function.__name__ == name
        assert len(function.__doc__.splitlines()) > 2, name


def test_a_score_of_arrays_is_worked_out_by_hand():
    assert metrics.accuracy_pooled(LABELS, PREDICTED) == 6 / 8
    assert metrics.accuracy_video(LABELS, PREDICTED, CASES) == (3 / 4 + 3 / 4) / 2
    # F1 of the classes in b: 2/3, 4/5; in a: 6/7, 0
    expected = np.mean([np.mean([2 / 3, 4 / 5]), np.mean([6 / 7, 0])])
    assert metrics.f1_video_macro(LABELS, PREDICTED, CASES) == pytest.approx(expected)
    assert metrics.f1_video_macro(LABELS, PREDICTED, CASES, absent="A") == metrics.f1_video_macro_A(
        LABELS, PREDICTED, CASES
    )


def test_the_rule_for_absent_classes_changes_the_number():
    labels, predicted = np.array([0, 0, 0]), np.array([0, 0, 1])
    values = {rule: metrics.f1_video_macro(labels, predicted, absent=rule) for rule in ("A", "B", "C", "all")}
    assert values["A"] == pytest.approx(0.4)  # 4/5 of class 0 and 0 of class 1
    assert values["B"] == pytest.approx(0.8)
    with pytest.raises(ConfigError, match="expected one of A, B, C, all"):
        metrics.f1_video_macro(labels, predicted, absent="D")


@pytest.mark.parametrize("task", ["phase", "tools"])
def test_functions_give_what_the_registry_gives_for_the_same_frames(task):
    rng = np.random.default_rng(0)
    cases, times = np.repeat([0, 1, 2], 20), np.tile(np.arange(20.0), 3)
    if task == "phase":
        scores = rng.dirichlet(np.ones(3), 60)
        labels, predicted = rng.integers(0, 3, 60), scores.argmax(1)
    else:
        scores = rng.random((60, 3))
        labels, predicted = rng.integers(0, 2, (60, 3)), (scores >= 0.5).astype(np.int64)
    outcome = Outcome(labels, predicted, scores, cases, times, 1.0)
    shuffled = rng.permutation(60)  # times put the frames in order
    given = {"scores": scores[shuffled], "times": times[shuffled]}
    compared = 0
    for name, named in get_task(task).named.items():
        if named.offered(outcome):
            function = getattr(metrics, name.replace("@", "_"))
            value = function(labels[shuffled], cases=cases[shuffled], **given)
            np.testing.assert_equal(value, named.metric(outcome, None), err_msg=name)
            compared += 1
    assert compared >= 4


def test_masks_are_scored_without_what_is_not_labelled():
    gt = np.array([[[0, 0], [1, 255]]], dtype=np.uint8)
    predicted = np.array([[[0, 1], [1, 0]]], dtype=np.uint8)
    assert metrics.iou_dataset(gt, predicted, classes=2) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert metrics.iou_dataset_no_background(gt, predicted, classes=["rest", "tool"], background=0) == 0.5
    of_sizes = metrics.iou_dataset([gt[0], gt[0, :1]], [predicted[0], predicted[0, :1]], classes=2)
    assert of_sizes == pytest.approx(np.mean([2 / 4, 1 / 3]))


def test_a_metric_that_is_added_later_is_a_function_until_it_is_taken_out(monkeypatch):
    changeable(METRICS, monkeypatch)
    assert "half_always" not in dir(metrics)
    METRICS.register(AddedMetric("phase", "half@always", Named(lambda outcome, weights: 0.5)))
    assert metrics.half_always(LABELS, PREDICTED) == 0.5
    METRICS.unregister("phase/half@always")
    METRICS.register(AddedMetric("phase", "half@always", Named(lambda outcome, weights: 0.25)))
    assert metrics.half_always(LABELS, PREDICTED) == 0.25
    METRICS.unregister("phase/half@always")
    with pytest.raises(AttributeError, match="no metric 'half_always'"):
        metrics.half_always  # noqa: B018


def test_a_metric_that_several_tasks_define_is_undefined_where_it_is_for_all_and_refused_where_they_differ(monkeypatch):
    changeable(METRICS, monkeypatch)
    for task in ("phase", "step"):
        METRICS.register(AddedMetric(task, "own@none", Named(lambda outcome, weights: float("nan"))))
    for task, value in (("phase", 0.5), ("step", 0.25)):
        METRICS.register(AddedMetric(task, "own@two", Named(lambda outcome, weights, value=value: value)))
    assert np.isnan(metrics.own_none(LABELS, PREDICTED))
    with pytest.raises(ConfigError, match="own@two is another metric for each of several tasks"):
        metrics.own_two(LABELS, PREDICTED)


def test_a_metric_that_is_added_to_masks_is_a_function_of_masks_alone(monkeypatch):
    changeable(METRICS, monkeypatch)
    METRICS.register(AddedMetric("segmentation", "images@all", Named(lambda outcome, weights: len(outcome.case))))
    assert metrics.images_all(np.zeros((3, 2, 2), int), np.zeros((3, 2, 2), int), classes=2) == 3
    with pytest.raises(ConfigError, match=r"images@all takes masks, not labels of shape \[8\]"):
        metrics.images_all(LABELS, PREDICTED)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.accuracy_pooled(LABELS), "give predictions, or scores"),
        (lambda: metrics.accuracy_pooled(LABELS, PREDICTED[:3]), "different shapes"),
        (lambda: metrics.accuracy_pooled(LABELS - 1, PREDICTED), "leave frames without a label out"),
        (lambda: metrics.accuracy_pooled(LABELS / 3, PREDICTED), "whole numbers"),
        (lambda: metrics.accuracy_pooled(LABELS, PREDICTED, classes=1), "labels: expected 0 to 0"),
        (lambda: metrics.map_pooled(np.eye(2), np.eye(2)), "every frame has scores"),
        (lambda: metrics.accuracy_pooled(np.eye(2), np.eye(2)), r"takes labels \[n\]"),
        (lambda: metrics.iou_dataset(LABELS, PREDICTED), "takes masks"),
        (lambda: metrics.iou_dataset(np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int)), "give `classes`"),
        (lambda: metrics.accuracy_video(LABELS, PREDICTED, [1, 2]), "one for each of 8 frames"),
        (lambda: metrics.accuracy_pooled(LABELS, PREDICTED, times=[np.nan] * 8), "finite seconds"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_words(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'accuracy_pooled'"):
        metrics.acuracy_pooled  # noqa: B018
