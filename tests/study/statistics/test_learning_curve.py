"""Learning curves over label budgets."""

import numpy as np
import pytest
from scipy.integrate import trapezoid
from statistics_factory import known

from trocar.errors import TrocarError
from trocar.study.statistics.scaling import area_weights, learning_curve


def test_the_area_is_the_mean_height_over_the_log_of_labelled_cases():
    budgets = {40: known("a", [0.9, 0.9]), 10: known("a", [0.5, 0.5]), 20: known("a", [0.7, 0.7])}
    curve = learning_curve("a", budgets)
    assert curve.labelled == (10, 20, 40)
    assert [point.value for point in curve.points] == [0.5, 0.7, 0.9]
    assert curve.area is not None
    assert curve.area.value == pytest.approx(trapezoid([0.5, 0.7, 0.9], [0, 1, 2]) / 2)
    assert area_weights([1, 2, 16]) == pytest.approx([1 / 8, 4 / 8, 3 / 8])


def test_the_area_has_the_luck_of_a_pretraining_once():
    same = learning_curve("a", {1: known("a", [0.0, 2.0]), 2: known("a", [0.0, 2.0])}).area
    opposite = learning_curve("a", {1: known("a", [0.0, 2.0]), 2: known("a", [2.0, 0.0])}).area
    unequal = learning_curve("a", {1: known("a", [0.0, 2.0]), 2: known("a", [0.0, 2.0, 1.0])}).area
    assert same is not None
    assert opposite is not None
    assert unequal is not None
    assert same.error == pytest.approx(1.0)
    assert opposite.error == 0
    assert unequal.error == pytest.approx(np.sqrt(0.25 * 1 + 0.25 / 3))


def test_one_budget_has_a_point_and_no_area():
    curve = learning_curve("a", {8: known("a", [0.5, 0.7], 0.1)}, bounds=(0, 1))
    assert curve.area is None
    assert curve.points[0].high <= 1
    assert curve.to_json()["points"][0]["value"] == pytest.approx(0.6)


def test_budgets_without_labels_or_with_other_draws_are_refused():
    with pytest.raises(TrocarError, match="at least one labelled case"):
        learning_curve("a", {0: known("a", [1.0])})
    with pytest.raises(TrocarError, match="use the same for all"):
        learning_curve("a", {1: known("a", [1.0]), 2: known("a", [1.0], draws=9)})
