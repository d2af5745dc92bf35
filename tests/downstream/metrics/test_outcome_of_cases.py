import numpy as np
import pytest

from trocar.downstream.metrics import outcome as outcomes
from trocar.downstream.metrics.outcome import Outcome, SegmentationOutcome, of_cases, resampled
from trocar.downstream.metrics.registry import metric_named
from trocar.errors import ConfigError


def test_an_outcome_of_some_cases_has_their_frames_alone():
    case = np.array([0, 0, 1, 2, 2, 2])
    outcome = Outcome(np.arange(6), np.arange(6), np.eye(6), case, time_s=np.arange(6.0))
    some = of_cases(outcome, np.array([True, False, True]))
    assert some.gt.tolist() == [0, 1, 3, 4, 5]
    assert some.case.tolist() == [0, 0, 1, 1, 1]
    assert some.cases == 2
    assert some.time_s.tolist() == [0, 1, 3, 4, 5]
    assert some.fold is None


def test_masks_of_some_cases_are_their_images_alone():
    confusions = np.array([[[9, 1], [0, 0]], [[0, 0], [5, 5]], [[1, 0], [0, 1]]])
    outcome = SegmentationOutcome(confusions, np.array([0, 1, 2]), ("background", "organ"))
    some = of_cases(outcome, np.array([False, True, True]))
    assert some.case.tolist() == [0, 1]
    assert some.confusions.tolist() == confusions[1:].tolist()
    # intersection over union of background: 1 of 6, of organ: 6 of 11
    assert metric_named("segmentation", "iou@dataset")(some, None) == pytest.approx((1 / 6 + 6 / 11) / 2)


def test_a_metric_is_found_by_name_for_every_task():
    outcome = Outcome(np.array([0, 1]), np.array([0, 0]), np.eye(2), np.array([0, 1]), classes=("one", "two"))
    assert metric_named("phase", "f1@pooled_macro")(outcome, None) == pytest.approx((2 / 3) / 2)
    with pytest.raises(ConfigError, match="did you mean 'iou@dataset'"):
        metric_named("segmentation", "iou@datset")


def of_three_cases():
    return Outcome(np.zeros(3, int), np.zeros(3, int), np.ones((3, 1)), np.arange(3))


def test_draws_of_cases_are_the_same_with_every_version_of_numpy():
    drawn = []
    resampled(lambda _, weights: drawn.append(weights.tolist()) or 0.0, of_three_cases(), 4)
    assert drawn == [[0, 1, 2], [1, 2, 0], [0, 2, 1], [1, 1, 1]]


def test_draws_of_cases_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    def first_case(_, weights):
        return float(weights[0])

    together = resampled(first_case, of_three_cases(), 50, seed=3)
    monkeypatch.setattr(outcomes, "DRAWS_AT_ONCE", 7)
    assert resampled(first_case, of_three_cases(), 50, seed=3).tolist() == together.tolist()
    assert resampled(first_case, of_three_cases(), 50, seed=4).tolist() != together.tolist()


def test_draws_of_cases_scatter_a_mean_as_theory_has_it():
    values = np.random.default_rng(0).normal(size=40)
    many = Outcome(np.zeros(40, int), np.zeros(40, int), np.ones((40, 1)), np.arange(40))
    means = resampled(lambda _, weights: float(weights @ values / weights.sum()), many, 4000)
    # The deviation of 4000 draws is itself uncertain by 1 / sqrt(2 x 4000), 1.1 %.
    assert means.std() == pytest.approx(values.std() / np.sqrt(40), rel=0.045)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(40 * 4000))
