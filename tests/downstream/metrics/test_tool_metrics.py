"""Average precision and tool metrics against scikit-learn and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metrics_factory import random_multilabel
from sklearn.metrics import average_precision_score, f1_score

from trocar.downstream.metrics import multilabel
from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.metrics.ranking import ap_pooled, average_precision, rank
from trocar.downstream.metrics.registry import metrics_of

ABSENT = np.array([[1, 0], [0, 0], [1, 0]])
ABSENT_SCORES = np.array([[0.9, 0.5], [0.8, 0.4], [0.7, 0.3]])
ONE_ABSENT = Outcome(ABSENT, (ABSENT_SCORES >= 0.5).astype(np.int64), ABSENT_SCORES, np.array([0, 0, 1]))


def test_average_precision_by_hand() -> None:
    # Ranks 1, 3 and 4 are positive: (1/1 + 2/3 + 3/4) / 3.
    assert average_precision(np.array([1, 0, 1, 1]), np.array([0.9, 0.8, 0.7, 0.6])) == pytest.approx(
        (1 + 2 / 3 + 3 / 4) / 3
    )


@pytest.mark.parametrize("share", [0.02, 0.1, 0.6])  # rare classes are resampled from counts, common ones are not
def test_average_precision_equals_scikit_learn_with_ties_and_weights(share: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        gt = (generator.random(120) < share).astype(np.int64)
        gt[generator.integers(120)] = 1
        scores = generator.integers(0, 8, 120) / 8
        case = generator.integers(0, 5, 120)
        weights = generator.integers(1, 4, 5).astype(float) * (generator.random(5) > 0.3)
        ranking = rank(gt, scores, case, 5)
        assert average_precision(gt, scores) == pytest.approx(average_precision_score(gt, scores))
        if (weights[case] * gt).any():
            expected = average_precision_score(gt, scores, sample_weight=weights[case])
            assert ranking.average_precision(weights) == pytest.approx(expected)
        else:
            assert np.isnan(ranking.average_precision(weights))


def test_rare_and_common_classes_take_different_ways() -> None:
    scores, case = np.linspace(0, 1, 100), np.arange(100) % 5
    assert rank((np.arange(100) < 3).astype(np.int64), scores, case, 5).counts is not None
    assert rank((np.arange(100) < 60).astype(np.int64), scores, case, 5).counts is None


def test_an_absent_tool_is_dropped_from_the_mean_not_counted_as_zero() -> None:
    assert np.isnan(ap_pooled(ONE_ABSENT)[1])
    assert multilabel.map_pooled(ONE_ABSENT) == pytest.approx((1 + 2 / 3) / 2)
    assert multilabel.map_case(ONE_ABSENT) == pytest.approx(1.0)


def test_counting_an_absent_tool_as_zero_is_a_metric_of_its_own() -> None:
    assert multilabel.map_absent_zero(ONE_ABSENT) == pytest.approx((1 + 2 / 3) / 2 / 2)


def test_no_positive_frame_at_all_is_undefined() -> None:
    assert np.isnan(average_precision(np.zeros(3, dtype=int), np.ones(3)))
    nothing = replace(ONE_ABSENT, gt=np.zeros((3, 2), dtype=np.int64))
    assert np.isnan(multilabel.map_pooled(nothing))


def test_map_over_folds_does_not_rank_frames_of_different_folds() -> None:
    gt, scores = np.array([[1], [0], [1], [0]]), np.array([[0.2], [0.1], [0.9], [0.8]])
    outcome = Outcome(gt, gt, scores, np.array([0, 0, 1, 1]), fold=np.array([0, 0, 1, 1]))
    assert multilabel.map_folds(outcome) == 1.0
    assert multilabel.map_pooled(outcome) == pytest.approx((1 + 2 / 3) / 2)
    assert "map@folds" not in metrics_of("tools", replace(outcome, fold=None))


def test_heichole_f1_equals_scikit_learn_over_the_tools_that_occur() -> None:
    outcome = random_multilabel(5)
    expected = f1_score(outcome.gt[:, :-1], outcome.pred[:, :-1], average="macro")
    assert outcome.pred[:, -1].any()
    assert multilabel.f1_heichole(outcome) == pytest.approx(expected)


def test_an_unscored_tool_is_left_out() -> None:
    outcome = random_multilabel(6)
    first = replace(outcome, gt=outcome.gt[:, 1:], pred=outcome.pred[:, 1:], scores=outcome.scores[:, 1:])
    for metric in (
        multilabel.map_pooled,
        multilabel.map_case,
        multilabel.map_absent_zero,
        multilabel.f1_heichole,
        multilabel.map_folds,
    ):
        assert metric(replace(outcome, unscored=(0,))) == pytest.approx(metric(first))
