"""Phase recognition, frame by frame. Names follow `metric@convention`; a "video" is a whole operation (case).

For class c let tp, fp, fn be counts of frames. F1 = 2 tp / (2 tp + fp + fn), undefined where c is neither in
the ground truth nor predicted, and 0 where it is only predicted.
"""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Outcome, case_mean, frame_weights


def confusion(outcome: Outcome, weights: Floats | None = None) -> Floats:
    """Counts [K, K]: row is the ground truth, column the prediction."""
    classes = outcome.scores.shape[1]
    flat = outcome.gt * classes + outcome.pred
    counts = np.bincount(flat, weights=frame_weights(outcome, weights), minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.float64)


def confusion_by_case(outcome: Outcome) -> Floats:
    """Counts [cases, K, K]."""
    classes = outcome.scores.shape[1]
    flat = (outcome.case * classes + outcome.gt) * classes + outcome.pred
    counts = np.bincount(flat, minlength=outcome.cases * classes**2)
    return counts.reshape(outcome.cases, classes, classes).astype(np.float64)


def f1_scores(counts: Floats) -> Floats:
    """F1 per class from counts [..., K, K]; NaN where it is undefined."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum(-1) + counts.sum(-2)
    scores: Floats = np.divide(2 * hits, total, out=np.full(hits.shape, np.nan), where=total > 0)
    return scores


def accuracy_pooled(outcome: Outcome, weights: Floats | None = None) -> float:
    """`accuracy@pooled`: right frames / all frames, over all cases together."""
    counts = confusion(outcome, weights)
    return float(np.trace(counts) / counts.sum())


def accuracy_video(outcome: Outcome, weights: Floats | None = None) -> float:
    """`accuracy@video`: right frames / all frames of each case, then the mean over cases (each counts the
    same).
    """
    counts = confusion_by_case(outcome)
    return case_mean(np.trace(counts, axis1=1, axis2=2) / counts.sum((1, 2)), weights)


def f1_pooled_macro(outcome: Outcome, weights: Floats | None = None) -> float:
    """`f1@pooled_macro`: one confusion matrix over all frames, F1 per class, mean over the classes where it
    is defined.
    """
    return float(np.nanmean(f1_scores(confusion(outcome, weights))))


def f1_video_macro(outcome: Outcome, weights: Floats | None = None) -> float:
    """`f1@video_macro`: F1 per class in each case, mean over the classes where it is defined, then mean over
    cases.

    A phase predicted in a case that does not have it counts 0 (strategy A of Funke et al., "Metrics Matter in
    Surgical Phase Recognition", arXiv:2305.13961).
    """
    return case_mean(np.nanmean(f1_scores(confusion_by_case(outcome)), axis=1), weights)
