"""Average precision against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.metrics.tools import ap_per_tool, average_precision, map_case, map_pooled


def test_average_precision_by_hand() -> None:
    # Ranks 1, 3 and 4 are positive: (1/1 + 2/3 + 3/4) / 3.
    assert average_precision(np.array([1, 0, 1, 1]), np.array([0.9, 0.8, 0.7, 0.6])) == pytest.approx(
        (1 + 2 / 3 + 3 / 4) / 3
    )


def test_average_precision_equals_scikit_learn_with_ties_and_weights() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        gt = generator.integers(0, 2, 60)
        scores = generator.integers(0, 8, 60) / 8
        weights = generator.integers(0, 3, 60).astype(float)
        assert average_precision(gt, scores) == pytest.approx(average_precision_score(gt, scores))
        expected = average_precision_score(gt, scores, sample_weight=weights)
        assert average_precision(gt, scores, weights) == pytest.approx(expected)


def test_an_absent_tool_is_dropped_from_the_mean_not_counted_as_zero() -> None:
    gt = np.array([[1, 0], [0, 0], [1, 0]])
    scores = np.array([[0.9, 0.5], [0.8, 0.4], [0.7, 0.3]])
    outcome = Outcome(gt, gt, scores, np.array([0, 0, 1]))
    assert np.isnan(ap_per_tool(outcome)[1])
    assert map_pooled(outcome) == pytest.approx((1 + 2 / 3) / 2)
    assert map_case(outcome) == pytest.approx(1.0)


def test_no_positive_frame_at_all_is_undefined() -> None:
    assert np.isnan(average_precision(np.zeros(3, dtype=int), np.ones(3)))
