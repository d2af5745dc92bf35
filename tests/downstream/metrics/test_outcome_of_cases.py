import numpy as np
import pytest

from trocar.downstream.metrics.outcome import Outcome, of_cases
from trocar.downstream.metrics.registry import metric_named
from trocar.downstream.metrics.segmentation_outcome import SegmentationOutcome
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
