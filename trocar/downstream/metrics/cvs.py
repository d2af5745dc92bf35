"""Critical view of safety: three criteria, one binary problem each, on the annotated key frames.

Labels are rounded means of three annotators; `Outcome.soft` holds the means. There is no agreed score for a
whole video.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from trocar.downstream.metrics import calibration
from trocar.downstream.metrics.outcome import (
    Floats,
    Named,
    Outcome,
    case_sums,
    case_weights,
    has_scores,
    mean_defined,
    ratio,
)
from trocar.downstream.metrics.ranking import ap_pooled

CRITERIA = 3


def mean_ap(outcome: Outcome, weights: Floats | None = None) -> float:
    """`map`: AP of each criterion over all test frames together, mean over the criteria that occur.

    Endoscapes (SurgLatentGraph): not interpolated, label = round(mean of annotators). A criterion without a
    positive is dropped; torchmetrics and scikit-learn would count it as 0.
    """
    return float(mean_defined(ap_pooled(outcome, weights)))


def criterion_ap(outcome: Outcome, weights: Floats | None = None, *, criterion: int) -> float:
    """`ap@c1|c2|c3`: AP of one criterion over all test frames together; NaN if it never occurs."""
    return float(ap_pooled(outcome, weights)[criterion])


def decisions_by_case(outcome: Outcome) -> Floats:
    """Frames per case and criterion, [cases, K, 4]: true positives, positives, true negatives, negatives."""
    gt, right = outcome.gt, outcome.gt == outcome.pred
    return case_sums(outcome, np.stack([gt & right, gt, (1 - gt) & right, 1 - gt], axis=-1).astype(np.float64))


def balanced_accuracy(outcome: Outcome, weights: Floats | None = None) -> float:
    """`balanced_accuracy`: (sensitivity + specificity) / 2 of each criterion over all frames, mean over criteria.

    Stands beside the mAP of Endoscapes in secondary sources. Uses the predictions' threshold (0.5); a
    criterion that is always or never achieved is dropped.
    """
    tp, positive, tn, negative = np.moveaxis(
        np.tensordot(case_weights(outcome, weights), outcome.once(decisions_by_case), 1), -1, 0
    )
    return float(mean_defined((ratio(tp, positive) + ratio(tn, negative)) / 2))


def _has_criterion(outcome: Outcome) -> bool:
    return has_scores(outcome) and outcome.scores.shape[1] == CRITERIA


METRICS: dict[str, Named] = {
    "map": Named(mean_ap, has_scores),
    **{f"ap@c{c + 1}": Named(partial(criterion_ap, criterion=c), _has_criterion) for c in range(CRITERIA)},
    "balanced_accuracy": Named(balanced_accuracy),
    "brier@soft": Named(calibration.brier_soft, calibration.has_soft),
    "brier@rounded": Named(calibration.brier_multilabel, calibration.has_probabilities),
    "ece": Named(calibration.ece, calibration.has_probabilities),
}
