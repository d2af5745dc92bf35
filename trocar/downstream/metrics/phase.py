"""Phase and step recognition, frame by frame. Names follow `metric@convention`; a "video" is a whole operation
(case).

For class c in one video let tp, fp, fn be counts of frames, G the classes of the ground truth, P those of the
prediction. Precision = tp / (tp + fp), recall = tp / (tp + fn), F1 = 2 tp / (2 tp + fp + fn),
Jaccard = tp / (tp + fp + fn). Undefined are precision for c not in P, recall for c not in G, F1 and Jaccard
for c in neither. A class that is only predicted has F1 = Jaccard = precision = 0. What a published number does
with undefined values moves it by more than most methods differ: the conventions are those of Funke et al.,
"Metrics Matter in Surgical Phase Recognition", arXiv:2305.13961, and of the scripts named below.

scikit-learn computes these for one list of frames; the counts per case here are what makes 1,000 draws over
cases cheap.

Standard deviations that stand beside published means. They differ by what they are over, and by ddof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from trocar.downstream.metrics.outcome import (
    Floats,
    Named,
    Outcome,
    case_mean,
    case_means,
    case_weights,
    has_scores,
    mean_defined,
    ratio,
)
from trocar.downstream.metrics.ranking import ap_pooled

Absent = Literal["A", "B", "C", "all"]


@dataclass(frozen=True)
class Counts:
    """Numbers of frames per class, [..., K]: hit (tp), predicted (tp + fp) and actual (tp + fn)."""

    hit: Floats
    predicted: Floats
    actual: Floats


Measure = Callable[[Counts], Floats]


def precision(counts: Counts) -> Floats:
    """tp / (tp + fp), NaN for a class that is not predicted."""
    return ratio(counts.hit, counts.predicted)


def recall(counts: Counts) -> Floats:
    """tp / (tp + fn), NaN for a class that does not occur."""
    return ratio(counts.hit, counts.actual)


def f1(counts: Counts) -> Floats:
    """2 tp / (2 tp + fp + fn), NaN for a class that neither occurs nor is predicted."""
    return ratio(2 * counts.hit, counts.predicted + counts.actual)


def jaccard(counts: Counts) -> Floats:
    """tp / (tp + fp + fn), NaN for a class that neither occurs nor is predicted."""
    return ratio(counts.hit, counts.predicted + counts.actual - counts.hit)


MEASURES: dict[str, Measure] = {"f1": f1, "jaccard": jaccard, "precision": precision, "recall": recall}


def confusion_by_case(outcome: Outcome) -> Floats:
    """Counts of scored frames, [cases, K, K]: row is the ground truth, column the prediction."""
    classes, use = outcome.scores.shape[1], outcome.scored
    flat = (outcome.case[use] * classes + outcome.gt[use]) * classes + outcome.pred[use]
    counts = np.bincount(flat, minlength=outcome.cases * classes**2)
    return counts.reshape(outcome.cases, classes, classes).astype(np.float64)


def confusion(outcome: Outcome, weights: Floats | None = None) -> Floats:
    """Counts [K, K] over all cases together: row is the ground truth, column the prediction."""
    total: Floats = np.tensordot(case_weights(outcome, weights), outcome.once(confusion_by_case), 1)
    return total


def counts_by_case(outcome: Outcome) -> Counts:
    """Counts [cases, K]."""
    table = outcome.once(confusion_by_case)
    return Counts(np.diagonal(table, axis1=1, axis2=2), table.sum(1), table.sum(2))


def counts_pooled(outcome: Outcome, weights: Floats | None = None) -> Counts:
    """Counts [K] over all cases together."""
    table, drawn = outcome.once(counts_by_case), case_weights(outcome, weights)
    return Counts(drawn @ table.hit, drawn @ table.predicted, drawn @ table.actual)


def by_case_and_class(outcome: Outcome, measure: Measure, absent: Absent) -> Floats:
    """`measure` per case and class, [cases, K], NaN for what the rule `absent` leaves out.

    A: only what is undefined. B: also everything of a class that the case does not have. C: as A, but a class
    that neither occurs nor is predicted counts 1 (not for recall). all: undefined counts 0.
    """
    counts = outcome.once(counts_by_case)
    values = measure(counts)
    missing = counts.actual == 0
    if absent == "B":
        values = np.where(missing, np.nan, values)
    elif absent == "C" and measure is not recall:
        values = np.where(missing & (counts.predicted == 0), 1.0, values)
    elif absent == "all":
        values = np.nan_to_num(values)
    return np.where(missing.all(1, keepdims=True), np.nan, values)


def _video_means(outcome: Outcome, measure: Measure, absent: Absent) -> Floats:
    return mean_defined(by_case_and_class(outcome, measure, absent))


def accuracy_pooled(outcome: Outcome, weights: Floats | None = None) -> float:
    """`accuracy@pooled`: right frames / all frames, over all cases together. Used by LEMON and most code that
    has one list of frames; long videos count more.
    """
    counts = counts_pooled(outcome, weights)
    return float(ratio(counts.hit.sum(), counts.actual.sum()))


def accuracy_video(outcome: Outcome, weights: Floats | None = None) -> float:
    """`accuracy@video`: right frames / all frames of each case, then the mean over cases (each counts the
    same). The usual one on Cholec80. TeCNO's too, though it reads like a running count: with the versions of PyTorch
    Lightning that it runs with (1.0 and 1.1) a metric starts anew once its value was asked for, here after each video.
    """
    counts = outcome.once(counts_by_case)
    return case_mean(ratio(counts.hit.sum(1), counts.actual.sum(1)), weights)


def video_macro(outcome: Outcome, weights: Floats | None = None, *, measure: Measure, absent: Absent) -> float:
    """`<measure>@video_macro_A|B|C|all`: mean over classes in each case, then mean over cases.

    A (Funke's strategy A, SurgPhaseBench; the F1 of SelfSupSurg, MultiBypass140 and SurgMotion, whose precision and
    recall count what is undefined as 0): drops only undefined values, so one frame of a phase that the case does not
    have costs a whole class. B (strategy B): drops all values of a class that the case does not have, so inventing a
    phase is not punished by F1. C (defined in SurgPhaseBench, reported nowhere): a class in neither counts 1. all
    (MedPerf's SurgMLCube, scikit-learn with all labels and `zero_division=0`; SurgLatentGraph): undefined counts 0, so
    a perfect prediction of a case that lacks a phase scores below 1.
    """
    return case_mean(outcome.once(_video_means, measure, absent), weights)


def phase_first(
    outcome: Outcome, weights: Floats | None = None, *, measure: Measure, absent: Literal["A", "B"]
) -> float:
    """`<measure>@phase_first`: mean over the cases that have the class (rule B), then mean over classes; the M2CAI
    2016 challenge's Main.m, whose deviation is over phases and which has no F1.

    `<measure>@phase_first_A`: the same over the cases where the measure is defined (rule A), so that a phase which a
    case lacks and which is predicted there has precision 0. TeCNO's precision and recall. Recall is the same by both
    rules. Rare phases weigh more than by video.
    """
    return float(mean_defined(case_means(outcome.once(by_case_and_class, measure, absent), weights)))


def pooled_macro(outcome: Outcome, weights: Floats | None = None, *, measure: Measure) -> float:
    """`<measure>@pooled_macro`: one confusion matrix over all frames, then the mean over the classes where the
    measure is defined (rule A).

    The scripts of LEMON and DACAT for AutoLaparo compute F1 like this. Their precision and recall count an undefined
    class 0 (scikit-learn), here it is dropped. Absent phases of single videos do not matter; long videos count more.
    """
    return float(mean_defined(measure(counts_pooled(outcome, weights))))


def balanced_accuracy(outcome: Outcome, weights: Floats | None = None) -> float:
    """`balanced_accuracy`: mean recall over the classes of each case, then mean over cases. SurgPhaseBench;
    the same number as `recall@video_macro_A`, under the name it is published by.
    """
    return video_macro(outcome, weights, measure=recall, absent="A")


def inflated_macro_f1(outcome: Outcome, weights: Floats | None = None) -> float:
    """`inflated_macro_f1`: 2 P R / (P + R) of the mean precision P and the mean recall R, each over all
    (case, class) pairs where it is defined (rule A).

    Older papers compute their F1 like this; SurgPhaseBench reports it to show by how much it exceeds the mean
    of F1. Never compare it with any other F1 here.
    """
    drawn = case_weights(outcome, weights)[:, None]
    means = []
    for measure in (precision, recall):
        values = outcome.once(by_case_and_class, measure, "A")
        means.append(ratio((drawn * np.nan_to_num(values)).sum(), (drawn * ~np.isnan(values)).sum()))
    return float(2 * means[0] * means[1] / (means[0] + means[1])) if sum(means) else 0.0


def inflated_macro_f1_video(outcome: Outcome, weights: Floats | None = None) -> float:
    """`inflated_macro_f1@video`: 2 P R / (P + R) of macro precision and macro recall of each case (rule A),
    then mean over cases. SurgPhaseBench; over-reports like `inflated_macro_f1`.
    """
    p, r = (outcome.once(_video_means, measure, "A") for measure in (precision, recall))
    return case_mean(np.where(p + r == 0, 0.0, ratio(2 * p * r, p + r)), weights)


def average_precision_macro(outcome: Outcome, weights: Floats | None = None) -> float:
    """`map`: average precision of each class's scores over all frames, mean over the classes that occur.
    GraSP / TAPIS for phases and steps.
    """
    return float(mean_defined(ap_pooled(outcome, weights)))


def f1_per_class(outcome: Outcome) -> Floats:
    """F1 of each class over all frames together, [K]."""
    return f1(counts_pooled(outcome))


_PHASE_FIRST: dict[str, Literal["A", "B"]] = {"": "B", "_A": "A"}

METRICS: dict[str, Named] = {
    "accuracy@pooled": Named(accuracy_pooled),
    "accuracy@video": Named(accuracy_video),
    "balanced_accuracy": Named(balanced_accuracy),
    **{
        f"{name}@video_macro_{absent}": Named(partial(video_macro, measure=measure, absent=absent))
        for name, measure in MEASURES.items()
        for absent in ("A", "B", "C", "all")
    },
    **{
        f"{name}@phase_first{suffix}": Named(partial(phase_first, measure=measure, absent=absent))
        for name, measure in MEASURES.items()
        for suffix, absent in _PHASE_FIRST.items()
    },
    **{f"{name}@pooled_macro": Named(partial(pooled_macro, measure=measure)) for name, measure in MEASURES.items()},
    "inflated_macro_f1": Named(inflated_macro_f1),
    "inflated_macro_f1@video": Named(inflated_macro_f1_video),
    "map": Named(average_precision_macro, has_scores),
}


def deviation(values: Floats, ddof: int = 1) -> float:
    """Standard deviation of the defined values [m]; NaN for fewer than 2."""
    defined = values[~np.isnan(values)]
    return float(np.std(defined, ddof=ddof)) if len(defined) > 1 else float("nan")


def phase_spread(outcome: Outcome) -> dict[str, float]:
    """Deviations (ddof = 1, SurgPhaseBench and Matlab's `std`; numpy's default is ddof = 0) by name.

    `accuracy@std_video` and `<measure>@std_video` are over cases of the value per case (rule A);
    `<measure>@std_phase` is over phases of the mean over cases (rule B), what Main.m prints behind its
    means. Neither says how sure the mean is: that is the interval.
    """
    counts = outcome.once(counts_by_case)
    found = {"accuracy@std_video": deviation(ratio(counts.hit.sum(1), counts.actual.sum(1)))}
    for name, measure in MEASURES.items():
        found[f"{name}@std_video"] = deviation(mean_defined(by_case_and_class(outcome, measure, "A")))
        found[f"{name}@std_phase"] = deviation(case_means(by_case_and_class(outcome, measure, "B"), None))
    return found
