"""Average precision, and how it is resampled over cases without sorting again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Ints, Outcome, case_weights, has_scores


@dataclass(frozen=True)
class ClassRanking:
    """The frames of one class by falling score. p positives, n frames.

    `positive` int64 [p] is the case of each positive by falling score, `hits` int64 [p] how many positives
    and `ranks` int64 [p] how many frames score at least as high as it. What the frames up to a rank weigh
    comes from `counts` float64 [p, cases] (frames of each case up to there) for a rare class, else from
    `case` int64 [n], which is smaller then.
    """

    positive: Ints
    hits: Ints
    ranks: Ints
    counts: Floats | None
    case: Ints

    def average_precision(self, weights: Floats) -> float:
        """AP = sum over thresholds n of (R_n - R_{n-1}) P_n, not interpolated, with `weights` [cases]; frames
        of equal score share one threshold. NaN without a positive.

        The same as scikit-learn's and torchmetrics' (which give 0 instead of NaN), written as the mean over
        positives of the precision at their threshold.
        """
        weight = weights[self.positive]
        positives = np.cumsum(weight)
        if len(weight) == 0 or positives[-1] == 0:
            return float("nan")
        frames = np.cumsum(weights[self.case])[self.ranks - 1] if self.counts is None else self.counts @ weights
        # Where no frame weighs anything no positive does: 0 / tiny.
        at_threshold = positives[self.hits - 1] / np.maximum(frames, np.finfo(np.float64).tiny)
        return float(weight @ at_threshold / positives[-1])


def rank(gt: Ints, scores: Floats, case: Ints, cases: int) -> ClassRanking:
    """The ranking of one class: `gt` 0 or 1 [n], `scores` [n], `case` [n] below `cases`."""
    order = np.argsort(-scores, kind="stable")
    falling, by_rank = -scores[order], case[order]
    places = np.flatnonzero(gt[order])
    found = falling[places]
    ranks = np.searchsorted(falling, found, side="right").astype(np.int64)
    hits = np.searchsorted(found, found, side="right").astype(np.int64)
    counts = None
    if len(places) * cases <= len(gt):
        frames = [np.searchsorted(np.flatnonzero(by_rank == c), ranks) for c in range(cases)]
        counts = np.stack(frames, axis=1).astype(np.float64)
    return ClassRanking(by_rank[places], hits, ranks, counts, by_rank)


def average_precision(gt: Ints, scores: Floats) -> float:
    """AP of one class, `gt` 0 or 1 [n] and `scores` [n]; NaN without a positive frame."""
    if not gt.any():
        return float("nan")
    return rank(gt, scores, np.zeros(len(gt), dtype=np.int64), 1).average_precision(np.ones(1))


def labels(outcome: Outcome) -> Ints:
    """Ground truth as 0 and 1, [n, K]."""
    return outcome.gt if outcome.gt.ndim == 2 else np.eye(outcome.scores.shape[1], dtype=np.int64)[outcome.gt]


def rankings(outcome: Outcome, fold: int | None = None) -> list[ClassRanking]:
    """One ranking per class over all scored frames (of one fold)."""
    use = outcome.scored if fold is None or outcome.fold is None else outcome.scored & (outcome.fold == fold)
    gt, scores, case = labels(outcome)[use], outcome.scores[use], outcome.case[use]
    return [rank(g, s, case, outcome.cases) for g, s in zip(gt.T, scores.T, strict=True)]


def ap_pooled(outcome: Outcome, weights: Floats | None = None, fold: int | None = None) -> Floats:
    """AP of each class over all frames together (of one fold), [K]; NaN for a class that does not occur or is
    not scored, and of all where frames have labels alone.
    """
    if not outcome.once(has_scores):
        return np.full(outcome.gt.shape[1], np.nan)
    drawn = case_weights(outcome, weights)
    # Several metrics are means of these, and a bootstrap gives them the same draws.
    return outcome.once(_ap_weighted, tuple(drawn.tolist()), fold)


def _ap_weighted(outcome: Outcome, drawn: tuple[float, ...], fold: int | None) -> Floats:
    weights = np.array(drawn)
    found = np.array([ranking.average_precision(weights) for ranking in outcome.once(rankings, fold)])
    found[list(outcome.unscored)] = np.nan
    return found


def ap_by_case(outcome: Outcome) -> Floats:
    """AP of each class inside each case, [cases, K]; NaN for a class that the case does not have or that is
    not scored.
    """
    gt = labels(outcome)
    values = np.full((outcome.cases, outcome.scores.shape[1]), np.nan)
    for case, rows in enumerate(outcome.rows_of_case):
        rows = rows[outcome.scored[rows]]
        for k in np.flatnonzero(gt[rows].any(0)):
            values[case, k] = average_precision(gt[rows, k], outcome.scores[rows, k])
    values[:, list(outcome.unscored)] = np.nan
    return values
