"""Segmental scores: over-segmentation, which frame-wise scores do not see. A segment is a maximal run of one label.

Edit = 1 - Levenshtein(labels of predicted segments, labels of true segments) / max(number of either).
F1@k = 2 tp / (2 tp + fp + fn) over segments: a predicted segment is a hit if its IoU with the true segment of
its class that overlaps it most is at least k % and that one is not taken yet; a second good candidate is not
tried. All values are fractions; MS-TCN's code prints per cent.

In the scripts of MS-TCN, MS-TCN2 and ASFormer the last segment of truth and prediction ends one frame early, so that a
last segment of one frame has no length and is never a hit: `ms_tcn` is as they compute it, `ms_tcn_fixed` counts every
frame. No library computes these with the conventions of the sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Ints, Named, Outcome, case_mean, case_weights, mean_defined, ratio
from trocar.downstream.metrics.phase import accuracy_video, by_case_and_class, f1

Background = Literal["kept", "segments", "frames"]
"""What is done with classes that the data set does not score: nothing; their segments are removed, true and
predicted; or frames of which they are the truth are removed, which joins segments across the hole."""


def runs(labels: Ints) -> Iterator[tuple[int, int, int]]:
    """Maximal runs (start, end, label) of `labels` [n]; `end` is exclusive."""
    if len(labels) == 0:
        return
    borders = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    for start, end in pairwise(borders):
        yield start, end, int(labels[start])


def levenshtein(a: Ints, b: Ints) -> int:
    """Insertions, deletions and substitutions that turn `a` into `b`."""
    steps = np.arange(len(b) + 1)
    row = steps.copy()
    for i, label in enumerate(a):
        # Deletion or substitution first; insertions along the row are a running minimum of row - position.
        best = np.append(i + 1, np.minimum(row[1:] + 1, row[:-1] + (b != label)))
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def edit_score(gt: Ints, pred: Ints) -> float:
    """Edit of two lists of segment labels; NaN if both are empty."""
    longest = max(len(gt), len(pred))
    return 1 - levenshtein(pred, gt) / longest if longest else float("nan")


def matches(gt: Ints, pred: Ints, k: float) -> tuple[int, int, int]:
    """tp, fp, fn of segments [s, 3] (start, end, label) at IoU k."""
    used = np.zeros(len(gt), dtype=bool)
    for start, end, label in pred:
        overlap = np.minimum(end, gt[:, 1]) - np.maximum(start, gt[:, 0])
        union = np.maximum(end, gt[:, 1]) - np.minimum(start, gt[:, 0])
        # Segments have no length only where a script cuts them; the script's 0 / 0 is no hit either.
        iou = np.nan_to_num(ratio(overlap, union)) * (gt[:, 2] == label)
        # One that is taken already stays one hit.
        if len(iou) and iou.max() >= k:
            used[iou.argmax()] = True
    hits = int(used.sum())
    return hits, len(pred) - hits, len(gt) - hits


def segments(outcome: Outcome, background: Background, cut: bool = False) -> list[tuple[Ints, Ints]]:
    """True and predicted segments of every case, each int64 [s, 3]: start, end, label. With `cut` the last one ends a
    frame early, as in MS-TCN's script.
    """
    found = []
    for rows in outcome.rows_of_case:
        rows = rows[outcome.scored[rows]] if background == "frames" else rows
        both = [np.array(list(runs(x[rows])), dtype=np.int64).reshape(-1, 3) for x in (outcome.gt, outcome.pred)]
        for labels in both if cut else ():
            labels[-1:, 1] -= 1
        if background == "segments":
            both = [s[~np.isin(s[:, 2], outcome.unscored)] for s in both]
        found.append((both[0], both[1]))
    return found


def edit_by_case(outcome: Outcome, background: Background) -> Floats:
    """Edit of every case, [cases]."""
    return np.array([edit_score(gt[:, 2], pred[:, 2]) for gt, pred in outcome.once(segments, background)])


def matches_by_case(outcome: Outcome, k: float, background: Background, cut: bool = False) -> Floats:
    """tp, fp, fn of every case, [cases, 3]."""
    return np.array([matches(gt, pred, k) for gt, pred in outcome.once(segments, background, cut)], dtype=np.float64)


def _f1(counts: Floats) -> Floats:
    return ratio(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def edit(outcome: Outcome, weights: Floats | None = None, *, background: Background) -> float:
    """`edit@ms_tcn`, `edit@surgphasebench`, `edit@pitvis`: Edit of each case, mean over cases.

    They differ in the background only: MS-TCN removes its segments, SurgPhaseBench knows none, PitVis removes
    its frames. Equal where a data set scores all its classes.
    """
    return case_mean(outcome.once(edit_by_case, background), weights)


def f1_pooled(outcome: Outcome, weights: Floats | None = None, *, k: float, cut: bool) -> float:
    """`f1_10@ms_tcn`, `f1_25@`, `f1_50@`: F1@k of tp, fp, fn summed over cases, background segments removed, as the
    script of MS-TCN, MS-TCN2 and ASFormer computes it: the last segment of a video ends one frame early (`cut`).
    `f1_10@ms_tcn_fixed` (25, 50): with that frame. Long operations with many segments count more.
    """
    return float(_f1(case_weights(outcome, weights) @ outcome.once(matches_by_case, k, "segments", cut)))


def f1_by_case(outcome: Outcome, weights: Floats | None = None, *, k: float) -> float:
    """`f1_10@surgphasebench` (also 25, 50, 75, 90) and `f1_10@sar_rarp50`: F1@k of each case, mean over cases;
    no class is background.
    """
    return case_mean(_f1(outcome.once(matches_by_case, k, "kept")), weights)


def sar_rarp50(outcome: Outcome, weights: Floats | None = None) -> float:
    """`score@sar_rarp50`: sqrt(accuracy * F1@10), both means over cases. The action score of the SAR-RARP50
    challenge, whose labels come at 10 Hz.
    """
    return float(np.sqrt(accuracy_video(outcome, weights) * f1_by_case(outcome, weights, k=0.1)))


def pitvis_steps_by_case(outcome: Outcome) -> Floats:
    """(macro F1 + Edit) / 2 of every case, [cases]."""
    macro = mean_defined(by_case_and_class(outcome, f1, "A"))
    return (macro + outcome.once(edit_by_case, "frames")) / 2


def pitvis_steps(outcome: Outcome, weights: Floats | None = None) -> float:
    """`score@pitvis`: 0.5 macro F1 (over the steps that occur or are predicted) + 0.5 Edit of each case, mean
    over cases. The step score of PitVis-2023; frames of background and of steps 11 and 13 are removed first
    (`Outcome.unscored`).
    """
    return case_mean(outcome.once(pitvis_steps_by_case), weights)


METRICS: dict[str, Named] = {
    "edit@ms_tcn": Named(partial(edit, background="segments")),
    **{f"f1_{k}@ms_tcn": Named(partial(f1_pooled, k=k / 100, cut=True)) for k in (10, 25, 50)},
    **{f"f1_{k}@ms_tcn_fixed": Named(partial(f1_pooled, k=k / 100, cut=False)) for k in (10, 25, 50)},
    "edit@surgphasebench": Named(partial(edit, background="kept")),
    **{f"f1_{k}@surgphasebench": Named(partial(f1_by_case, k=k / 100)) for k in (10, 25, 50, 75, 90)},
    "f1_10@sar_rarp50": Named(partial(f1_by_case, k=0.1)),
    "score@sar_rarp50": Named(sar_rarp50),
    "edit@pitvis": Named(partial(edit, background="frames")),
    "score@pitvis": Named(pitvis_steps),
}
