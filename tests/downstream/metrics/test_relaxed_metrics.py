"""Relaxed-boundary scores: the six cases that were run through the challenge's Matlab code in Octave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metrics_factory import CHOLEC80, random_multiclass

from trocar.downstream.metrics import phase
from trocar.downstream.metrics.challenges import forgiven, relaxed_accuracy, relaxed_score, relaxed_scores
from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.metrics.registry import metrics_of

# Changes: (first frame, last frame, predicted phase), all 1-based. Then Jaccard of the phases that are not 100,
# and accuracy, in per cent: as the Matlab code has it, as it was meant, and strict.
EARLY, LATE = {1: 84.00, 2: 86.21}, {1: 86.21, 2: 84.00}
CASES = {
    "8 early": ([(43, 50, 2)], (EARLY, 97.71), ({}, 100), (EARLY, 97.71)),
    "8 late": ([(51, 58, 1)], ({}, 100), ({}, 100), (LATE, 97.71)),
    "early errors forgive others": (
        [(43, 50, 2), (3, 10, 5)],
        (EARLY, 97.71),
        ({1: 84.00, 5: 86.21}, 97.71),
        ({1: 68.00, 2: 86.21, 5: 86.21}, 95.43),
    ),
    "late by 2 at the start of 6": ([(251, 258, 4)], ({}, 100), ({}, 100), ({4: 86.21, 6: 84.00}, 97.71)),
    "early by 2 at the end of 4": (
        [(193, 200, 6)],
        ({4: 84.00, 6: 86.21}, 97.71),
        ({}, 100),
        ({4: 84.00, 6: 86.21}, 97.71),
    ),
    "early error at the start of 3": ([(101, 108, 4)], *[({3: 84.00, 4: 86.21}, 97.71)] * 3),
}


def seven_phases(changes: list[tuple[int, int, int]], fps: float = 1.0) -> Outcome:
    gt = np.repeat(np.arange(7), 50)
    pred = gt.copy()
    for first, last, wrong in changes:
        pred[first - 1 : last] = wrong - 1
    return Outcome(gt, pred, np.eye(7)[pred], np.zeros(350, dtype=np.int64), fps=fps, classes=CHOLEC80)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rule", ["matlab", "fixed", "strict"])
def test_the_six_cases_digit_for_digit(name: str, rule: str) -> None:
    changes, *expected = CASES[name]
    below, accuracy = expected[["matlab", "fixed", "strict"].index(rule)]
    outcome = seven_phases(changes)
    if rule == "strict":
        found, right = phase.by_case_and_class(outcome, phase.jaccard, "B")[0], phase.accuracy_video(outcome)
    else:
        scores = relaxed_scores(outcome, rule == "matlab")
        found, right = scores.jaccard[0], relaxed_accuracy(outcome, matlab=rule == "matlab")
    np.testing.assert_array_equal((100 * found).round(2), [below.get(p, 100) for p in range(1, 8)])
    assert round(100 * right, 2) == accuracy


def test_the_window_is_ten_seconds_of_labels() -> None:
    late = [(51, 70, 1)]
    assert relaxed_accuracy(seven_phases(late, fps=1), matlab=False) == pytest.approx(340 / 350)
    assert relaxed_accuracy(seven_phases(late, fps=2), matlab=False) == 1.0


def test_in_m2cai16_the_special_phases_are_one_later() -> None:
    gt = np.repeat(np.arange(8), 50)
    pred = gt.copy()
    pred[250:258] = 3  # phase 6 starts with phase 4: two back is forgiven for 7 and 8 only
    assert not forgiven(gt, pred, 8, 10, matlab=False)[250:258].any()
    pred[300:308] = 4  # phase 7 starts with phase 5
    assert forgiven(gt, pred, 8, 10, matlab=False)[300:308].all()


def test_a_phase_that_the_video_lacks_or_never_predicts_is_undefined() -> None:
    gt, pred = np.array([0] * 20 + [1] * 20), np.array([0] * 40)
    outcome = Outcome(gt, pred, np.eye(7)[pred], np.zeros(40, dtype=np.int64), classes=CHOLEC80)
    scores = relaxed_scores(outcome, matlab=False)
    # Phase 1 is predicted 40 times, 20 are right and 10 forgiven. Phase 2 is never predicted: Matlab's 10 / 0 is
    # Inf, cut to 1.
    assert scores.precision[0, :2] == pytest.approx([30 / 40, 1.0])
    assert scores.recall[0, :2] == pytest.approx([1.0, 10 / 20])
    assert np.isnan(scores.jaccard[0, 2:]).all()
    assert relaxed_score(outcome, score="recall", matlab=False) == pytest.approx(0.75)


def test_a_phase_that_is_only_predicted_is_undefined_not_zero() -> None:
    gt, pred = np.zeros(40, dtype=np.int64), np.array([0] * 20 + [4] * 5 + [0] * 15)
    scores = relaxed_scores(Outcome(gt, pred, np.eye(7)[pred], np.zeros(40, dtype=np.int64), classes=CHOLEC80), True)
    for score in (scores.jaccard, scores.precision, scores.recall):
        assert np.isnan(score[0, 4])
    assert scores.jaccard[0, 0] == pytest.approx(35 / 40)


def test_other_phase_orders_are_not_offered_relaxed_scores() -> None:
    outcome = random_multiclass(0)
    assert "accuracy@relaxed_matlab" in metrics_of("phase", outcome)
    laparo = replace(outcome, classes=tuple(f"step {i}" for i in range(7)))
    assert not [name for name in metrics_of("phase", laparo) if "relaxed" in name]
    assert not [name for name in metrics_of("phase", replace(outcome, classes=CHOLEC80[::-1])) if "relaxed" in name]


@pytest.mark.parametrize("seed", range(4))
def test_relaxing_never_lowers_accuracy(seed: int) -> None:
    outcome = random_multiclass(seed)
    strict = phase.accuracy_video(outcome)
    assert relaxed_accuracy(outcome, matlab=False) >= strict
    assert relaxed_accuracy(outcome, matlab=True) >= strict
