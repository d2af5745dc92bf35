"""Frame-wise phase metrics against numbers worked by hand and against scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from metrics_factory import labelled, random_multiclass
from sklearn import metrics as sklearn_metrics
from torchmetrics.classification import MulticlassF1Score, MulticlassPrecision, MulticlassRecall

from trocar.downstream.metrics import phase
from trocar.downstream.metrics.outcome import Outcome, bootstrap_interval
from trocar.downstream.metrics.phase import phase_spread
from trocar.downstream.metrics.registry import metrics_of

# Case 0: four frames, three right. Case 1: two frames, one right; phase 2 is predicted there but does not occur.
TWO_CASES = labelled([0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 2], [0, 0, 0, 0, 1, 1])


def funke_example() -> Outcome:
    """One video of 290 frames with phases 0 to 6 of which phase 5 is absent but predicted: F1 per class is .833
    .909 .854 .930 .783 0 .852.
    """
    actual, hits, predicted = [30, 80, 40, 90, 20, 0, 30], [25, 70, 35, 80, 18, 0, 26], [30, 74, 42, 82, 26, 5, 31]
    missed = [c for c in range(7) for _ in range(actual[c] - hits[c])]
    wrong = [c for c in range(7) for _ in range(predicted[c] - hits[c])]
    shift = next(s for s in range(36) if all(a != b for a, b in zip(missed, wrong[s:] + wrong[:s], strict=True)))
    right = [c for c in range(7) for _ in range(hits[c])]
    return labelled(right + missed, right + wrong[shift:] + wrong[:shift], [0] * 290, classes=7)


def test_what_an_absent_phase_counts_moves_macro_f1_by_twelve_points() -> None:
    example = funke_example()
    per_class = phase.f1_per_class(example)
    np.testing.assert_array_equal(per_class.round(3), [0.833, 0.909, 0.854, 0.930, 0.783, 0, 0.852])
    values = {a: phase.video_macro(example, measure=phase.f1, absent=a) for a in ("A", "B", "C", "all")}
    assert {a: round(v, 3) for a, v in values.items()} == {"A": 0.737, "B": 0.860, "C": 0.737, "all": 0.737}
    assert round(phase.accuracy_video(example), 3) == 0.876
    assert round(phase.balanced_accuracy(example), 3) == 0.873


def test_pooled_and_per_video_accuracy_differ_when_videos_differ_in_length() -> None:
    assert phase.accuracy_pooled(TWO_CASES) == pytest.approx(4 / 6)
    assert phase.accuracy_video(TWO_CASES) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_macro_f1_by_hand_in_every_convention() -> None:
    # Pooled: phase 0 tp 3 fp 1 fn 1 -> 6/8; phase 1 tp 1 fp 0 fn 1 -> 2/3; phase 2 only predicted -> 0.
    assert phase.pooled_macro(TWO_CASES, measure=phase.f1) == pytest.approx((6 / 8 + 2 / 3 + 0) / 3)
    # Case 0: phases 0 (4/5) and 1 (2/3), 2 in neither. Case 1: phases 0 (2/3) and 2 (0), 1 in neither.
    by_video = partial(phase.video_macro, TWO_CASES, measure=phase.f1)
    assert by_video(absent="A") == pytest.approx(((4 / 5 + 2 / 3) / 2 + (2 / 3 + 0) / 2) / 2)
    assert by_video(absent="B") == pytest.approx(((4 / 5 + 2 / 3) / 2 + 2 / 3) / 2)
    assert by_video(absent="C") == pytest.approx(((4 / 5 + 2 / 3 + 1) / 3 + (2 / 3 + 1 + 0) / 3) / 2)
    assert by_video(absent="all") == pytest.approx(((4 / 5 + 2 / 3) / 3 + (2 / 3) / 3) / 2)
    # Phase 0: (4/5 + 2/3) / 2. Phase 1 is in case 0 only: 2/3. Phase 2 is in no case.
    first = partial(phase.phase_first, TWO_CASES, measure=phase.f1)
    assert first(absent="B") == pytest.approx(((4 / 5 + 2 / 3) / 2 + 2 / 3) / 2)
    # By rule A phase 2, which is only predicted, counts 0.
    assert first(absent="A") == pytest.approx(((4 / 5 + 2 / 3) / 2 + 2 / 3 + 0) / 3)


def test_precision_of_tecno_counts_a_phase_that_the_video_lacks_and_main_m_does_not() -> None:
    """Two videos: phases 0 and 1, all right; phase 0 alone, of whose four frames one is called phase 1. Precision of
    phase 0 is 1 and 1; of phase 1 it is 1 and 0 / 1. TeCNO drops 0 / 0 alone: (1 + (1 + 0) / 2) / 2. Main.m drops what
    the video lacks: (1 + 1) / 2.
    """
    outcome = labelled([0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 1], [0] * 4 + [1] * 4, classes=2)
    named = metrics_of("phase", outcome)
    assert named["precision@phase_first_A"](outcome, None) == pytest.approx((1 + (1 + 0 / 1) / 2) / 2)
    assert named["precision@phase_first"](outcome, None) == 1.0
    recall = ((2 / 2 + 3 / 4) / 2 + 2 / 2) / 2
    assert named["recall@phase_first_A"](outcome, None) == pytest.approx(recall)
    assert named["recall@phase_first"](outcome, None) == pytest.approx(recall)


def test_the_mean_over_all_phases_gives_zero_for_an_undefined_one_as_torchmetrics_does() -> None:
    """One video without phase 2, in which nothing is called so: SurgLatentGraph's mean over three phases."""
    outcome = labelled([0, 0, 1, 1], [0, 0, 0, 1], [0] * 4)
    expected = {"precision": (2 / 3 + 1 + 0) / 3, "recall": (1 + 1 / 2 + 0) / 3, "f1": (4 / 5 + 2 / 3 + 0) / 3}
    for name, value in expected.items():
        assert metrics_of("phase", outcome)[f"{name}@video_macro_all"](outcome, None) == pytest.approx(value)
        library = {"precision": MulticlassPrecision, "recall": MulticlassRecall, "f1": MulticlassF1Score}[name]
        per_phase = library(3, average="none")(torch.tensor(outcome.pred), torch.tensor(outcome.gt))
        assert float(torch.nanmean(per_phase)) == pytest.approx(value)


def test_precision_and_recall_drop_different_classes() -> None:
    by_video = partial(phase.video_macro, TWO_CASES)
    # Precision: case 0 phases 0 (2/3), 1 (1); case 1 phases 0 (1), 2 (0). Recall: case 0 (1, 1/2), case 1 (1/2).
    assert by_video(measure=phase.precision, absent="A") == pytest.approx(((2 / 3 + 1) / 2 + (1 + 0) / 2) / 2)
    assert by_video(measure=phase.precision, absent="B") == pytest.approx(((2 / 3 + 1) / 2 + 1) / 2)
    assert by_video(measure=phase.recall, absent="A") == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert by_video(measure=phase.recall, absent="C") == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_pooled_f1_is_that_of_the_scripts_of_lemon_and_dacat_and_pooled_precision_is_not() -> None:
    """Phase 2 is never predicted. scikit-learn's macro mean, which the scripts take, counts its precision 0."""
    outcome = labelled([0, 0, 1, 1, 2], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1], classes=3)
    assert phase.pooled_macro(outcome, measure=phase.f1) == pytest.approx((1 + 4 / 5 + 0) / 3)
    assert sklearn_metrics.f1_score(outcome.gt, outcome.pred, average="macro") == pytest.approx((1 + 4 / 5 + 0) / 3)
    assert phase.pooled_macro(outcome, measure=phase.precision) == pytest.approx((1 + 2 / 3) / 2)
    theirs = sklearn_metrics.precision_score(outcome.gt, outcome.pred, average="macro", zero_division=0)
    assert theirs == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_the_inflated_f1_is_the_harmonic_mean_of_mean_precision_and_mean_recall() -> None:
    p, r = (2 / 3 + 1 + 1 + 0) / 4, (1 + 1 / 2 + 1 / 2) / 3
    assert phase.inflated_macro_f1(TWO_CASES) == pytest.approx(2 * p * r / (p + r))
    p0, r0, p1, r1 = 5 / 6, 3 / 4, 1 / 2, 1 / 2
    expected = (2 * p0 * r0 / (p0 + r0) + 2 * p1 * r1 / (p1 + r1)) / 2
    assert phase.inflated_macro_f1_video(TWO_CASES) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", list(phase.MEASURES))
def test_rules_a_and_all_equal_scikit_learn_per_video(seed: int, name: str) -> None:
    outcome = random_multiclass(seed)
    score = getattr(sklearn_metrics, f"{name}_score")
    pairs = [(outcome.gt[rows], outcome.pred[rows]) for rows in outcome.rows_of_case]
    expected = [score(g, p, labels=range(7), average="macro", zero_division=0) for g, p in pairs]
    assert phase.video_macro(outcome, measure=phase.MEASURES[name], absent="all") == pytest.approx(np.mean(expected))
    if name in ("f1", "jaccard"):  # without `labels` scikit-learn takes the union of truth and prediction
        union = [score(g, p, average="macro", zero_division=0) for g, p in pairs]
        assert phase.video_macro(outcome, measure=phase.MEASURES[name], absent="A") == pytest.approx(np.mean(union))


def test_a_phase_predicted_only_scores_zero() -> None:
    assert phase.f1_per_class(labelled([0, 0], [0, 1], [0, 0]))[1] == 0
    assert np.isnan(phase.f1_per_class(labelled([0, 0], [0, 1], [0, 0]))[2])


def test_a_phase_that_neither_occurs_nor_is_predicted_is_left_out() -> None:
    perfect = labelled([0, 1], [0, 1], [0, 0], classes=7)
    assert phase.pooled_macro(perfect, measure=phase.f1) == 1.0
    assert phase.video_macro(perfect, measure=phase.f1, absent="A") == 1.0


def test_map_is_the_mean_average_precision_over_phases_that_occur() -> None:
    outcome = random_multiclass(3)
    present = sorted(set(outcome.gt.tolist()))
    found = [sklearn_metrics.average_precision_score(outcome.gt == c, outcome.scores[:, c]) for c in present]
    assert phase.average_precision_macro(outcome) == pytest.approx(np.mean(found))


def test_frames_of_an_unscored_step_do_not_count() -> None:
    steps = replace(labelled([0, 0, 2, 2, 1], [0, 1, 0, 1, 1], [0] * 5), unscored=(2,))
    assert phase.accuracy_pooled(steps) == pytest.approx(2 / 3)
    assert phase.f1_per_class(steps)[:2] == pytest.approx([2 / 3, 2 / 3])


def test_a_case_without_a_scored_frame_is_left_out_of_means_over_cases() -> None:
    steps = replace(labelled([0, 0, 2], [0, 1, 0], [0, 0, 1]), unscored=(2,))
    assert phase.accuracy_video(steps) == pytest.approx(1 / 2)
    assert phase.video_macro(steps, measure=phase.f1, absent="all") == pytest.approx((2 / 3) / 3)


def test_deviations_are_over_cases_or_phases_with_n_minus_one() -> None:
    spread = phase_spread(TWO_CASES)
    assert spread["accuracy@std_video"] == pytest.approx(np.std([3 / 4, 1 / 2], ddof=1))
    assert spread["f1@std_phase"] == pytest.approx(np.std([(4 / 5 + 2 / 3) / 2, 2 / 3], ddof=1))


def test_the_interval_is_over_cases_and_the_same_every_time() -> None:
    # Every case is wholly right or wholly wrong: 3 of 6, so draws spread over multiples of 1/6.
    cases = np.repeat(np.arange(6), 10)
    mixed = labelled([0] * 60, [0] * 30 + [1] * 30, cases.tolist())
    low, high = bootstrap_interval(phase.accuracy_pooled, [mixed], draws=500) or (0, 0)
    assert (low, high) == bootstrap_interval(phase.accuracy_pooled, [mixed], draws=500)
    assert low < 0.25
    assert high > 0.75
    assert (low * 6, high * 6) == (pytest.approx(round(low * 6)), pytest.approx(round(high * 6)))


def test_too_few_cases_have_no_interval() -> None:
    assert bootstrap_interval(phase.accuracy_pooled, [TWO_CASES]) is None
