"""Tool presence: average precision of scores, one binary problem per tool."""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Ints, Outcome, case_mean, frame_weights


def average_precision(gt: Ints, scores: Floats, weights: Floats | None = None, order: Ints | None = None) -> float:
    """AP = sum over distinct thresholds n of (R_n - R_{n-1}) P_n, not interpolated; NaN without a positive
    frame.

    `gt` is 0 or 1 [n], `weights` how often a frame counts, `order` its indices by falling score if known
    already. Equal to scikit-learn's `average_precision_score`; frames of equal score share one threshold.
    """
    order = np.argsort(-scores, kind="stable") if order is None else order
    weight = np.ones(len(gt)) if weights is None else weights[order]
    positive = np.cumsum(weight * gt[order])
    if len(gt) == 0 or positive[-1] == 0:
        return float("nan")
    selected = np.cumsum(weight)
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True) & (selected > 0)
    precision = positive[last] / selected[last]
    recall = positive[last] / positive[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def ap_per_tool(outcome: Outcome, weights: Floats | None = None) -> Floats:
    """AP of each tool over all frames together, [K]; NaN for a tool that no counted frame shows."""
    frames = frame_weights(outcome, weights)
    columns = zip(outcome.gt.T, outcome.scores.T, outcome.descending, strict=True)
    return np.array([average_precision(gt, scores, frames, order) for gt, scores, order in columns])


def map_pooled(outcome: Outcome, weights: Floats | None = None) -> float:
    """`map@pooled`: AP per tool over all test frames, mean over the tools that occur in them (others are
    dropped).
    """
    values = ap_per_tool(outcome, weights)
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def map_case(outcome: Outcome, weights: Floats | None = None) -> float:
    """`map@case`: `map@pooled` inside each case (tools that occur in it), then the mean over cases."""
    values = np.full(outcome.cases, np.nan)
    for case in range(outcome.cases):
        rows = outcome.case == case
        found = [average_precision(gt, s) for gt, s in zip(outcome.gt[rows].T, outcome.scores[rows].T, strict=True)]
        values[case] = np.nanmean(found) if not np.isnan(found).all() else np.nan
    return case_mean(values, weights)
