"""Phase metrics against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trocar.downstream.metrics import phase
from trocar.downstream.metrics.interval import bootstrap_interval
from trocar.downstream.metrics.outcome import Outcome


def outcome(gt: list[int], pred: list[int], case: list[int], classes: int = 3) -> Outcome:
    return Outcome(np.array(gt), np.array(pred), np.eye(classes)[pred], np.array(case))


# Case 0: four frames, three right. Case 1: two frames, one right; phase 2 is predicted there but does not occur.
TWO_CASES = outcome([0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 2], [0, 0, 0, 0, 1, 1])


def test_pooled_and_per_video_accuracy_differ_when_videos_differ_in_length() -> None:
    assert phase.accuracy_pooled(TWO_CASES) == pytest.approx(4 / 6)
    assert phase.accuracy_video(TWO_CASES) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_macro_f1_by_hand_in_both_conventions() -> None:
    # Pooled: phase 0 tp 3 fp 1 fn 1 -> 6/8; phase 1 tp 1 fp 0 fn 1 -> 2/3; phase 2 only predicted -> 0.
    assert phase.f1_pooled_macro(TWO_CASES) == pytest.approx((6 / 8 + 2 / 3 + 0) / 3)
    # Case 0: phases 0 (4/5) and 1 (2/3). Case 1: phases 0 (2/3) and 2 (0). Phase 1 is undefined in case 1.
    assert phase.f1_video_macro(TWO_CASES) == pytest.approx(((4 / 5 + 2 / 3) / 2 + (2 / 3 + 0) / 2) / 2)


def test_a_phase_that_neither_occurs_nor_is_predicted_is_left_out() -> None:
    perfect = outcome([0, 1], [0, 1], [0, 0], classes=7)
    assert phase.f1_pooled_macro(perfect) == 1.0
    assert phase.f1_video_macro(perfect) == 1.0


@pytest.mark.parametrize(
    "metric", [phase.accuracy_pooled, phase.accuracy_video, phase.f1_pooled_macro, phase.f1_video_macro]
)
def test_a_case_of_weight_two_counts_like_the_case_listed_twice(metric: object) -> None:
    twice = outcome([0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 2, 0, 2], [0, 0, 0, 0, 1, 1, 2, 2])
    assert callable(metric)
    assert metric(TWO_CASES, np.array([1.0, 2.0])) == pytest.approx(metric(twice, None))


def test_the_interval_is_over_cases_and_the_same_every_time() -> None:
    # Every case is wholly right or wholly wrong: 3 of 6, so draws spread over multiples of 1/6.
    cases = np.repeat(np.arange(6), 10)
    mixed = outcome([0] * 60, [0] * 30 + [1] * 30, cases.tolist())
    low, high = bootstrap_interval(phase.accuracy_pooled, [mixed], draws=500) or (0, 0)
    assert (low, high) == bootstrap_interval(phase.accuracy_pooled, [mixed], draws=500)
    assert low < 0.25
    assert high > 0.75
    assert (low * 6, high * 6) == (pytest.approx(round(low * 6)), pytest.approx(round(high * 6)))


def test_too_few_cases_have_no_interval() -> None:
    assert bootstrap_interval(phase.accuracy_pooled, [TWO_CASES]) is None
