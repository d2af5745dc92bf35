"""Calibration of probabilities. Surgical frames are strongly correlated: trust the interval over cases, not the
number of frames.

torchmetrics computes the same values from frames; the sums per case here let the bootstrap reuse them.
"""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics.outcome import (
    Bools,
    Floats,
    Named,
    Outcome,
    case_sums,
    case_weights,
    has_scores,
    mean_defined,
    ratio,
)
from trocar.downstream.metrics.ranking import labels

BINS = 15
ROUNDING = 1e-3  # scores are stored as float32 or rounded by other people's code


def has_probabilities(outcome: Outcome) -> bool:
    """True if scores lie in 0..1 and, with one label a frame, sum to 1."""
    return has_scores(outcome) and not improbable(outcome.scores, 1 if outcome.gt.ndim == 1 else None).any()


def improbable(scores: Floats, total: float | None) -> Bools:
    """Which rows of scores [n, K] are no probabilities, bool [n]: not in 0..1, or not of the sum `total`, if any."""
    wrong: Bools = np.any((scores < 0) | (scores > 1 + ROUNDING), axis=1)
    return wrong if total is None else wrong | (np.abs(scores.sum(1) - total) >= ROUNDING)


def has_soft(outcome: Outcome) -> bool:
    """True if there are probabilities and labels of several annotators."""
    return outcome.soft is not None and has_probabilities(outcome)


def bins_by_case(outcome: Outcome) -> Floats:
    """[cases, K or 1, BINS + 1, 3]: frames, sum of confidences and number right in every bin of confidence.

    The last bin is a confidence of exactly 1, as in torchmetrics. With one label a frame the confidence is
    the largest probability; with several it is each class's probability and "right" means the label is 1.
    """
    if outcome.gt.ndim == 1:
        confidence = outcome.scores.max(1, keepdims=True)
        right = (outcome.scores.argmax(1) == outcome.gt)[:, None]
    else:
        confidence, right = outcome.scores, outcome.gt == 1
    confidence = np.minimum(confidence, 1.0)
    place = np.searchsorted(np.linspace(0, 1, BINS + 1), confidence, side="right") - 1
    table = np.zeros((outcome.cases, confidence.shape[1], BINS + 1, 3))
    where = np.broadcast_to(outcome.case[:, None], place.shape), np.arange(place.shape[1])[None], place
    use = np.broadcast_to(outcome.scored[:, None], place.shape)
    np.add.at(table, where, np.stack([use, use * confidence, use & right], axis=-1))
    return table


def ece(outcome: Outcome, weights: Floats | None = None) -> float:
    """`ece`: expected calibration error, sum over 15 equal bins b of n_b / n |accuracy_b - confidence_b|.

    With several labels a frame: of each class's probability, mean over classes. torchmetrics' defaults (L1);
    the SAGES challenge names a "calibration error" without a formula. Depends on the number of bins, and says
    nothing of how sharp the probabilities are.
    """
    total = np.tensordot(case_weights(outcome, weights), outcome.once(bins_by_case), 1)
    gap = np.abs(total[..., 2] - total[..., 1]).sum(-1)
    return float(mean_defined(ratio(gap, total[..., 0].sum(-1))))


def _frames_by_case(outcome: Outcome) -> Floats:
    return case_sums(outcome, outcome.scored.astype(np.float64))


def _mean_over_frames(outcome: Outcome, sums: Floats, weights: Floats | None) -> float:
    drawn = case_weights(outcome, weights)
    return float(ratio(drawn @ sums, drawn @ outcome.once(_frames_by_case)))


def _squares(outcome: Outcome, target: Floats) -> Floats:
    """Squared errors summed over classes and frames of each case, [cases]."""
    squares: Floats = ((outcome.scores - target) ** 2).sum(1)
    return case_sums(outcome, np.where(outcome.scored, squares, 0.0))


def brier_by_case(outcome: Outcome) -> Floats:
    """Squared errors against the labels, [cases]."""
    return _squares(outcome, labels(outcome).astype(np.float64))


def brier_soft_by_case(outcome: Outcome) -> Floats:
    """Squared errors against the mean of the annotators, [cases]."""
    assert outcome.soft is not None
    return _squares(outcome, outcome.soft)


def brier_multiclass(outcome: Outcome, weights: Floats | None = None) -> float:
    """`brier` (phase, step): mean over frames of the sum over classes of (p - y)^2, 0..2. Brier's own form;
    some code divides by the number of classes.
    """
    return _mean_over_frames(outcome, outcome.once(brier_by_case), weights)


def brier_multilabel(outcome: Outcome, weights: Floats | None = None) -> float:
    """`brier` (tools), `brier@rounded` (cvs): mean over frames and classes of (p - y)^2, y the 0/1 label. The
    rounded label of disagreeing annotators punishes a model that is as unsure as they are.
    """
    return brier_multiclass(outcome, weights) / int(outcome.scores.shape[1])


def brier_soft(outcome: Outcome, weights: Floats | None = None) -> float:
    """`brier@soft`: mean over frames and criteria of (p - s)^2, s the mean of the annotators' 0 and 1. 0 is
    reached by predicting the share of annotators; not comparable with `brier@rounded`.
    """
    sums = outcome.once(brier_soft_by_case)
    return _mean_over_frames(outcome, sums, weights) / int(outcome.scores.shape[1])


def log_loss_by_case(outcome: Outcome) -> Floats:
    """-log of the probability of the true class summed over frames, [cases]."""
    true = np.take_along_axis(outcome.scores, outcome.gt[:, None], axis=1)[:, 0]
    losses: Floats = -np.log(np.clip(true, np.finfo(np.float64).eps, 1.0))
    return case_sums(outcome, np.where(outcome.scored, losses, 0.0))


def nll(outcome: Outcome, weights: Floats | None = None) -> float:
    """`nll`: mean over frames of -log p of the true class, natural logarithm; p is at least 2.2e-16 as in
    scikit-learn's `log_loss`. A single confident error can dominate it.
    """
    return _mean_over_frames(outcome, outcome.once(log_loss_by_case), weights)


MULTICLASS: dict[str, Named] = {
    "ece": Named(ece, has_probabilities),
    "brier": Named(brier_multiclass, has_probabilities),
    "nll": Named(nll, has_probabilities),
}
MULTILABEL: dict[str, Named] = {
    "ece": Named(ece, has_probabilities),
    "brier": Named(brier_multilabel, has_probabilities),
}
