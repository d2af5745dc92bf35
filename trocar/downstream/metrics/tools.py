"""Tool presence: any number of tools in a frame, one binary problem each."""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics import calibration, pitvis
from trocar.downstream.metrics.outcome import (
    Floats,
    Named,
    Outcome,
    case_mean,
    case_sums,
    case_weights,
    has_scores,
    mean_defined,
    ratio,
)
from trocar.downstream.metrics.ranking import ap_by_case, ap_pooled


def map_pooled(outcome: Outcome, weights: Floats | None = None) -> float:
    """`map@pooled`: AP per tool over all test frames, mean over the tools that occur in them (others are
    dropped). EndoNet and the M2CAI 2016 tool challenge (mean of 7 tools).
    """
    return float(mean_defined(ap_pooled(outcome, weights)))


def map_case(outcome: Outcome, weights: Floats | None = None) -> float:
    """`map@case`: mean AP inside each case over the tools that occur in it, then the mean over cases. Scores
    need not be comparable between cases; a tool seen in a few frames weighs as much as any.
    """
    return case_mean(mean_defined(outcome.once(ap_by_case)), weights)


def map_folds(outcome: Outcome, weights: Floats | None = None) -> float:
    """`map@folds`: `map@pooled` inside each fold's test frames, then the mean over folds. LEMON, five folds; its code
    counts a tool that a fold's test frames do not have as 0. Scores of differently fitted models are not ranked
    against each other.
    """
    assert outcome.fold is not None
    folds = [mean_defined(ap_pooled(outcome, weights, int(fold))) for fold in np.unique(outcome.fold)]
    return float(mean_defined(np.array(folds)))


def map_absent_zero(outcome: Outcome, weights: Floats | None = None) -> float:
    """`map@absent_zero`: sum of the AP of tools that occur / number of all tools: an absent tool counts 0.
    SelfSupSurg; equal to `map@pooled` where every tool occurs.
    """
    values = ap_pooled(outcome, weights)
    return float(np.nansum(values) / (len(values) - len(outcome.unscored)))


def counts_by_case(outcome: Outcome) -> Floats:
    """Frames of each tool per case, [cases, K, 3]: hit, predicted, actual."""
    hit = outcome.gt * outcome.pred
    return case_sums(outcome, np.stack([hit, outcome.pred, outcome.gt], axis=-1).astype(np.float64))


def f1_heichole(outcome: Outcome, weights: Floats | None = None) -> float:
    """`f1@heichole`: F1 of thresholded predictions per tool over all frames, mean over the tools that occur.
    HeiChole (EndoVis 2019), as secondary sources describe its script. The threshold is that of the predictions (0.5
    unless they were made otherwise); a tool that is only predicted is not punished.
    """
    hit, predicted, actual = np.moveaxis(
        np.tensordot(case_weights(outcome, weights), outcome.once(counts_by_case), 1), -1, 0
    )
    values = np.where(actual > 0, ratio(2 * hit, predicted + actual), np.nan)
    values[list(outcome.unscored)] = np.nan
    return float(mean_defined(values))


def _has_folds(outcome: Outcome) -> bool:
    return outcome.fold is not None and has_scores(outcome)


METRICS: dict[str, Named] = {
    "map@pooled": Named(map_pooled, has_scores),
    "map@case": Named(map_case, has_scores),
    "map@folds": Named(map_folds, _has_folds),
    "map@absent_zero": Named(map_absent_zero, has_scores),
    "f1@heichole": Named(f1_heichole),
    **pitvis.INSTRUMENTS,
    **calibration.MULTILABEL,
}
