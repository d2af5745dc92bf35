"""Metrics of tasks with several labels a frame: tools, criteria of the critical view of safety, action triplets.

Tool presence is any number of tools in a frame, one binary problem each.

Critical view of safety is three criteria, one binary problem each, on the annotated key frames. Labels are rounded
means of three annotators; `Outcome.soft` holds the means. There is no agreed score for a whole video.

Surgical action triplets are <instrument, verb, target>: AP of triplets and of their components. A component's label and
score in a frame are the maximum over the triplets that share it, as in ivtmetrics (Nwoye and Padoy, "Data Splits and
Metrics for Method Benchmarking on Surgical Action Triplet Datasets", arXiv:2204.05235). Which triplets share what comes
from the class names, "instrument,verb,target". For CholecT50's 100 triplets that gives 6, 10, 15, 26 and 59 classes for
i, v, t, iv and it.

Classes without a positive are NaN and dropped. ivtmetrics 0.1.5 from PyPI with scikit-learn >= 1.6 counts them as 0
instead, which lowers the AP to a fraction: compare with its current source or with older scikit-learn only.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from trocar.downstream.metrics import calibration, challenges
from trocar.downstream.metrics.outcome import (
    Bools,
    Floats,
    Named,
    Outcome,
    case_mean,
    case_means,
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


def tool_counts_by_case(outcome: Outcome) -> Floats:
    """Frames of each tool per case, [cases, K, 3]: hit, predicted, actual."""
    hit = outcome.gt * outcome.pred
    return case_sums(outcome, np.stack([hit, outcome.pred, outcome.gt], axis=-1).astype(np.float64))


def f1_heichole(outcome: Outcome, weights: Floats | None = None) -> float:
    """`f1@heichole`: F1 of thresholded predictions per tool over all frames, mean over the tools that occur.
    HeiChole (EndoVis 2019), as secondary sources describe its script. The threshold is that of the predictions (0.5
    unless they were made otherwise); a tool that is only predicted is not punished.
    """
    hit, predicted, actual = np.moveaxis(
        np.tensordot(case_weights(outcome, weights), outcome.once(tool_counts_by_case), 1), -1, 0
    )
    values = np.where(actual > 0, ratio(2 * hit, predicted + actual), np.nan)
    values[list(outcome.unscored)] = np.nan
    return float(mean_defined(values))


def _has_folds(outcome: Outcome) -> bool:
    return outcome.fold is not None and has_scores(outcome)


TOOLS: dict[str, Named] = {
    "map@pooled": Named(map_pooled, has_scores),
    "map@case": Named(map_case, has_scores),
    "map@folds": Named(map_folds, _has_folds),
    "map@absent_zero": Named(map_absent_zero, has_scores),
    "f1@heichole": Named(f1_heichole),
    **challenges.INSTRUMENTS,
    **calibration.MULTILABEL,
}


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


CVS: dict[str, Named] = {
    "map": Named(mean_ap, has_scores),
    **{f"ap@c{c + 1}": Named(partial(criterion_ap, criterion=c), _has_criterion) for c in range(CRITERIA)},
    "balanced_accuracy": Named(balanced_accuracy),
    "brier@soft": Named(calibration.brier_soft, calibration.has_soft),
    "brier@rounded": Named(calibration.brier_multilabel, calibration.has_probabilities),
    "ece": Named(calibration.ece, calibration.has_probabilities),
}


PLACES = {"i": (0,), "v": (1,), "t": (2,), "iv": (0, 1), "it": (0, 2), "ivt": (0, 1, 2)}


def parts(name: str) -> tuple[str, ...]:
    """Instrument, verb and target of a class name; empty if it is not a triplet."""
    words = tuple(word.strip() for word in name.split(","))
    return words if len(words) == 3 and all(words) else ()


def component(outcome: Outcome, which: str) -> Outcome:
    """The outcome of one component, `which` of i, v, t, iv, it, ivt; classes in the order of their first
    triplet.
    """
    keys = [",".join(parts(name)[place] for place in PLACES[which]) for name in outcome.classes]
    names = tuple(dict.fromkeys(keys))
    groups = [np.array([i for i, key in enumerate(keys) if key == name]) for name in names]
    gt, pred, scores = (
        np.stack([array[:, group].max(1) for group in groups], axis=1)
        for array in (outcome.gt, outcome.pred, outcome.scores)
    )
    return replace(outcome, gt=gt, pred=pred, scores=scores, classes=names, soft=None, unscored=())


def _counted(outcome: Outcome, ignore_null: bool) -> Bools:
    """Bool [K]: False for <instrument, null, null> if those are ignored."""
    null = [ignore_null and "null_verb" in name and "null_target" in name for name in outcome.classes]
    return ~np.array(null)


def ap_video(outcome: Outcome, weights: Floats | None = None, *, which: str, ignore_null: bool = False) -> float:
    """`ap_i|v|t|iv|it|ivt@video`: AP per class in each video that has it, mean over those videos, mean over
    classes. Official for CholecT45 and CholecT50 (`compute_video_AP`); cross-validation averages 5 folds.

    `ap_ivt@video_ignore_null` leaves out the triplets without an action (CholecTriplet2021), the last 6 of
    CholecT50; RDV and later papers keep all 100.
    """
    found = outcome.once(component, which)
    values = case_means(found.once(ap_by_case), weights)
    return float(mean_defined(values[_counted(found, ignore_null)]))


def ap_global(outcome: Outcome, weights: Floats | None = None, *, which: str, ignore_null: bool = False) -> float:
    """`ap_i|v|t|iv|it|ivt@global`: AP per class over all frames together, mean over the classes that occur
    (`compute_global_AP`); `ap_ivt@global_ignore_null` as above. Not comparable with `@video`.
    """
    found = outcome.once(component, which)
    return float(mean_defined(ap_pooled(found, weights)[_counted(found, ignore_null)]))


def has_triplets(outcome: Outcome) -> bool:
    """True if there are scores and every class is named "instrument,verb,target"."""
    named = len(outcome.classes) == outcome.scores.shape[1] and all(parts(name) for name in outcome.classes)
    return named and has_scores(outcome)


TRIPLETS: dict[str, Named] = {}
for _over, _metric in (("video", ap_video), ("global", ap_global)):
    for _which in PLACES:
        TRIPLETS[f"ap_{_which}@{_over}"] = Named(partial(_metric, which=_which), has_triplets)
    TRIPLETS[f"ap_ivt@{_over}_ignore_null"] = Named(partial(_metric, which="ivt", ignore_null=True), has_triplets)
