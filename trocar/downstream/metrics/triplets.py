"""Surgical action triplets <instrument, verb, target>: AP of triplets and of their components.

A component's label and score in a frame are the maximum over the triplets that share it, as in ivtmetrics
(Nwoye and Padoy, "Data Splits and Metrics for Method Benchmarking on Surgical Action Triplet Datasets",
arXiv:2204.05235). Which triplets share what comes from the class names, "instrument,verb,target". For
CholecT50's 100 triplets that gives 6, 10, 15, 26 and 59 classes for i, v, t, iv and it.

Classes without a positive are NaN and dropped. ivtmetrics 0.1.5 from PyPI with scikit-learn >= 1.6 counts them
as 0 instead, which lowers the AP to a fraction: compare with its current source or with older scikit-learn only.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from trocar.downstream.metrics.outcome import Bools, Floats, Named, Outcome, case_means, has_scores, mean_defined
from trocar.downstream.metrics.ranking import ap_by_case, ap_pooled

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


METRICS: dict[str, Named] = {}
for _over, _metric in (("video", ap_video), ("global", ap_global)):
    for _which in PLACES:
        METRICS[f"ap_{_which}@{_over}"] = Named(partial(_metric, which=_which), has_triplets)
    METRICS[f"ap_ivt@{_over}_ignore_null"] = Named(partial(_metric, which="ivt", ignore_null=True), has_triplets)
