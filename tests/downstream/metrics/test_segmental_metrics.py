"""Edit and F1@k by hand and against a reference written as the definition reads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import groupby

import numpy as np
import pytest
from metrics_factory import labelled, random_multiclass
from sklearn.metrics import f1_score

from trocar.downstream.metrics import segmental
from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.metrics.registry import metrics_of


def reference_edit(gt: list[int], pred: list[int]) -> float:
    a, b = [k for k, _ in groupby(gt)], [k for k, _ in groupby(pred)]

    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return 1 - distance(len(a), len(b)) / max(len(a), len(b))


def reference_counts(gt: list[int], pred: list[int], k: float) -> tuple[int, int, int]:
    def spans(labels: list[int]) -> list[tuple[int, set[int]]]:
        found, start = [], 0
        for label, group in groupby(labels):
            length = len(list(group))
            found.append((label, set(range(start, start + length))))
            start += length
        return found

    truth, taken, hits = spans(gt), set(), 0
    guesses = spans(pred)
    for label, frames in guesses:
        ious = [len(frames & other) / len(frames | other) if label == name else 0.0 for name, other in truth]
        best = ious.index(max(ious))
        if ious[best] >= k and best not in taken:
            taken.add(best)
            hits += 1
    return hits, len(guesses) - hits, len(truth) - hits


def flickering(seed: int) -> Outcome:
    outcome = random_multiclass(seed, cases=3, classes=4)
    return replace(outcome, classes=())


@pytest.mark.parametrize("seed", range(10))
def test_edit_and_f1_equal_the_definition(seed: int) -> None:
    outcome = flickering(seed)
    pairs = [(outcome.gt[r].tolist(), outcome.pred[r].tolist()) for r in outcome.rows_of_case]
    edits = [reference_edit(g, p) for g, p in pairs]
    for background in ("kept", "segments", "frames"):
        assert segmental.edit(outcome, background=background) == pytest.approx(np.mean(edits))
    for k in (0.1, 0.25, 0.5, 0.75, 0.9):
        counts = np.array([reference_counts(g, p, k) for g, p in pairs])
        per_case = [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in counts]
        assert segmental.f1_by_case(outcome, k=k) == pytest.approx(np.mean(per_case))
        tp, fp, fn = counts.sum(0)
        assert segmental.f1_pooled(outcome, k=k, cut=False) == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_the_last_segment_ends_a_frame_early_as_in_the_script_of_ms_tcn() -> None:
    """Truth 90 x 0, 10 x 1; prediction 95 x 0, 5 x 1. Whole: IoU of the last segments 5 / 10, a hit at 50 %. The
    script's end is 99: 4 / 9, so two segments of two are hit at 25 % and one at 50 %: F1 2 * 1 / (2 * 1 + 1 + 1).
    """
    outcome = labelled([0] * 90 + [1] * 10, [0] * 95 + [1] * 5, [0] * 100)
    script = (99 - 95) / (99 - 90)
    assert (script >= 0.25, script >= 0.5) == (True, False)
    assert metrics_of("phase", outcome)["f1_50@ms_tcn"](outcome, None) == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert metrics_of("phase", outcome)["f1_25@ms_tcn"](outcome, None) == 1.0
    assert metrics_of("phase", outcome)["f1_50@ms_tcn_fixed"](outcome, None) == 1.0
    assert segmental.edit(outcome, background="segments") == 1.0


def test_a_last_segment_of_one_frame_is_never_a_hit_of_that_script() -> None:
    outcome = labelled([0, 0, 0, 1], [0, 0, 0, 1], [0] * 4)
    assert segmental.f1_pooled(outcome, k=0.1, cut=True) == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert segmental.f1_pooled(outcome, k=0.1, cut=False) == 1.0


def test_run_lengths_by_hand() -> None:
    # Truth 0 1 0; prediction 0 1 0 1 0: two segments too many.
    gt, pred = [0] * 4 + [1] * 4 + [0] * 4, [0] * 4 + [1] * 4 + [0, 1, 0, 0]
    outcome = labelled(gt, pred, [0] * 12)
    assert segmental.edit(outcome, background="kept") == pytest.approx(1 - 2 / 5)
    # IoU: first two 1.0; [8] with true [8, 12) 1/4; [9] no overlap with a 1; [10, 12) 2/4.
    assert segmental.f1_by_case(outcome, k=0.5) == pytest.approx(2 * 3 / (5 + 3))
    assert segmental.f1_by_case(outcome, k=0.25) == pytest.approx(2 * 3 / (5 + 3))
    assert segmental.f1_by_case(outcome, k=0.75) == pytest.approx(2 * 2 / (5 + 3))


def test_a_second_good_candidate_is_not_tried() -> None:
    both = segmental.matches(np.array([[0, 10, 0], [11, 13, 0]]), np.array([[0, 5, 0], [5, 12, 0]]), 0.1)
    assert both == (1, 1, 1)  # [5, 12) overlaps the taken [0, 10) most (5/12), though [11, 13) has 1/8


def test_background_is_removed_as_segments_or_as_frames() -> None:
    # Truth 0 2 0, prediction 0 1 0 with 2 not scored.
    outcome = replace(labelled([0, 0, 2, 2, 0, 0], [0, 0, 1, 1, 0, 0], [0] * 6), unscored=(2,))
    assert segmental.edit(outcome, background="kept") == pytest.approx(1 - 1 / 3)
    assert segmental.edit(outcome, background="segments") == pytest.approx(1 - 1 / 3)  # 0 0 against 0 1 0
    assert segmental.edit(outcome, background="frames") == 1.0  # 0 against 0
    assert segmental.f1_pooled(outcome, k=0.5, cut=False) == pytest.approx(2 * 2 / (3 + 2))


def test_a_case_with_background_only_is_undefined() -> None:
    outcome = replace(labelled([2, 2, 0], [2, 2, 0], [0, 0, 1]), unscored=(2,))
    assert np.isnan(segmental.edit_by_case(outcome, "frames")[0])
    assert segmental.edit(outcome, background="frames") == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_the_pitvis_step_score_is_half_macro_f1_and_half_edit(seed: int) -> None:
    outcome = replace(random_multiclass(seed), unscored=(2,))
    expected = []
    for rows in outcome.rows_of_case:
        rows = rows[outcome.gt[rows] != 2]
        gt, pred = outcome.gt[rows], outcome.pred[rows]
        expected.append((f1_score(gt, pred, average="macro") + reference_edit(gt.tolist(), pred.tolist())) / 2)
    assert segmental.pitvis_steps(outcome) == pytest.approx(np.mean(expected))


def test_the_sar_rarp50_score_is_the_geometric_mean_of_accuracy_and_f1() -> None:
    outcome = labelled([0, 0, 1, 1], [0, 1, 1, 1], [0] * 4)
    assert segmental.sar_rarp50(outcome) == pytest.approx(np.sqrt(3 / 4 * 1.0))
