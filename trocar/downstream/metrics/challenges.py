"""Scores of challenges that only their own scripts compute: PitVis-2023, and the relaxed boundaries of M2CAI 2016.

PitVis-2023 (arXiv:2409.01184): instruments and the multi-task score; its steps are in segmental.py. A second has up
to two of 19 instruments (0 = none or occluded). Seconds out of the patient have none of the 19 in the ground truth,
and count: an instrument that is predicted there is a false alarm. That is the challenge's script as it stands since
12 September 2023 (`helper_scripts/evaluation_instruments.py`). Its versions of 10 and 11 September removed these
seconds and took the macro mean over instruments; no metric here is that.

M2CAI 2016 (`Evaluate.m`): relaxed-boundary phase scores, for Cholec80 and M2CAI16 only.

Within t = 10 s of a transition a prediction of the neighbouring phase is forgiven. With d = prediction - ground
truth, for every segment of phase p (t frames, at most its length):

====================  ==============================  ==============================
phase (1-based)       first t frames: right where d is last t frames: right where d is
====================  ==============================  ==============================
Cholec80 1, 2, 3      -1                              +1
Cholec80 4, 5         -1                              +1, +2
Cholec80 6, 7         -1, -2                          +1, +2
====================  ==============================  ==============================

M2CAI16 has one phase in front, so {4, 5} and {6, 7} become {5, 6} and {7, 8}. Other phase orders are refused:
AutoLaparo is sometimes scored with these rules (Surgformer's `Main_AutoLaparo.m`), which mean nothing there.

`relaxed_fixed` is this rule. `relaxed_matlab` is what the published script computes (TMRNet, SAHC, DACAT,
Surgformer): the mask made from the last t frames is applied to the first t. Early transitions are then not forgiven,
and a wrong frame near a segment's start can become right. Numbers of that lineage are comparable with
`relaxed_matlab` only, and neither with strict ones. SV-RCNet's copy has the same error, but forgives only +1 at the
end of 6 and 7 of Cholec80, and counts a phase that is never predicted as precision 0 on M2CAI16. SelfSupSurg's Python
port differs from all. t uses the rate of the labels (`Outcome.fps`). SAHC's scripts reckon with 25 rows a second
where its code predicts five, so that its ten seconds are fifty.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from sklearn.metrics import f1_score

from trocar.downstream.datasets.base import CHOLEC80_PHASES, PHASE_SETS, canonical
from trocar.downstream.metrics.outcome import (
    Bools,
    Floats,
    Ints,
    Named,
    Outcome,
    case_mean,
    case_means,
    mean_defined,
    ratio,
)
from trocar.downstream.metrics.segmental import pitvis_steps_by_case, runs

INSTRUMENT_CLASSES = 19


def official_columns(labels: Ints) -> Ints:
    """Columns as the challenge's script orders them: classes that `labels` [n, 19] has, then the others."""
    return np.argsort(~labels.any(0), kind="stable")


def instruments_by_case(outcome: Outcome, official: bool) -> Floats:
    """Weighted F1 of every case over all its labelled seconds, [cases]."""
    values = np.full(outcome.cases, np.nan)
    for case, rows in enumerate(outcome.rows_of_case):
        gt, pred = outcome.gt[rows], outcome.pred[rows]
        if official:
            gt, pred = gt[:, official_columns(gt)], pred[:, official_columns(pred)]
        values[case] = f1_score(gt, pred, average="weighted", zero_division=1)
    return values


class Multitask(Protocol):
    """A metric of a step outcome and a tool outcome of the same cases."""

    def __call__(self, steps: Outcome, tools: Outcome, weights: Floats | None = None) -> float:
        """One number; `weights` [cases] are of a bootstrap draw."""


def instruments(outcome: Outcome, weights: Floats | None = None, *, official: bool) -> float:
    """`f1@pitvis_official`: F1 of each instrument in a case weighted by its number of seconds, mean over cases, as the
    challenge's script computes it.

    The script makes the columns of truth and prediction apart, those that occur first: an instrument that is
    in one of them only shifts the columns against each other, and one false alarm can halve the score. `f1@pitvis`
    is the same with the instruments 0..18 as the columns of both: compare methods by that.
    """
    return case_mean(outcome.once(instruments_by_case, official), weights)


def multitask(steps: Outcome, tools: Outcome, weights: Floats | None = None, *, official: bool) -> float:
    """`multitask@pitvis`, `multitask@pitvis_official`: mean of the step score and the instrument score of each
    case, mean over cases. `steps` and `tools` must have the same cases. Caveats as for `instruments`.
    """
    both = steps.once(pitvis_steps_by_case) + tools.once(instruments_by_case, official)
    return case_mean(both / 2, weights)


def has_instruments(outcome: Outcome) -> bool:
    """True for the 19 instrument classes of PitVis."""
    return outcome.gt.ndim == 2 and outcome.gt.shape[1] == INSTRUMENT_CLASSES


INSTRUMENTS: dict[str, Named] = {
    "f1@pitvis": Named(partial(instruments, official=False), has_instruments),
    "f1@pitvis_official": Named(partial(instruments, official=True), has_instruments),
}


SECONDS = 10


class RelaxedScores(NamedTuple):
    """Per case: `accuracy` [cases]; `jaccard`, `precision`, `recall` [cases, K], NaN where the case lacks the
    phase.
    """

    accuracy: Floats
    jaccard: Floats
    precision: Floats
    recall: Floats


def has_relaxed_rules(outcome: Outcome) -> bool:
    """True for the phases of Cholec80 or M2CAI16 in their published order."""
    names = [canonical(name) for name in outcome.classes]
    return any(names == [canonical(name) for name in PHASE_SETS[known]] for known in ("cholec80", "m2cai16"))


def forgiven(gt: Ints, pred: Ints, classes: int, window: int, matlab: bool) -> Bools:
    """Bool [n]: frames of one video that count as right; `gt` and `pred` are 0-based, `window` is t in
    frames.
    """
    shift = classes - len(CHOLEC80_PHASES)
    difference = pred - gt
    for start, end, phase in runs(gt):
        part = difference[start:end]
        t = min(window, len(part))
        early = [-1, -2] if phase - shift >= 5 else [-1]
        late = [1, 2] if phase - shift >= 3 else [1]
        part[:t][np.isin(part[:t], early)] = 0
        mask = np.isin(part[len(part) - t :], late)
        (part[:t] if matlab else part[len(part) - t :])[mask] = 0
    right: Bools = difference == 0
    return right


def relaxed_scores(outcome: Outcome, matlab: bool) -> RelaxedScores:
    """All four scores of every case. A phase that is never predicted has an undefined precision; one above 1,
    because forgiven frames are counted over predicted ones, is cut to 1 as in Main.m.
    """
    classes = outcome.scores.shape[1]
    window = round(SECONDS * outcome.fps)
    rows = [_one_case(outcome.gt[r], outcome.pred[r], classes, window, matlab) for r in outcome.rows_of_case]
    accuracy, jaccard, precision, recall = (np.stack(column) for column in zip(*rows, strict=True))
    return RelaxedScores(accuracy, jaccard, precision, recall)


def _one_case(gt: Ints, pred: Ints, classes: int, window: int, matlab: bool) -> tuple[Floats, Floats, Floats, Floats]:
    right = forgiven(gt, pred, classes, window, matlab)
    actual, predicted = (x[:, None] == np.arange(classes) for x in (gt, pred))
    union = actual | predicted
    hits = (union & right[:, None]).sum(0)
    absent = ~actual.any(0)
    scores = [ratio(hits, whole.sum(0)) for whole in (union, predicted, actual)]
    # Matlab's x / 0 is Inf for x > 0, which Main.m cuts to 100 %.
    scores[1] = np.where(~predicted.any(0) & (hits > 0), 1.0, scores[1])
    jaccard, precision, recall = (np.where(absent, np.nan, np.minimum(score, 1.0)) for score in scores)
    return np.asarray(right.mean()), jaccard, precision, recall


def relaxed_accuracy(outcome: Outcome, weights: Floats | None = None, *, matlab: bool) -> float:
    """`accuracy@relaxed_matlab|relaxed_fixed`: right or forgiven frames / all frames of each video, mean over
    videos.
    """
    return case_mean(outcome.once(relaxed_scores, matlab).accuracy, weights)


def relaxed_score(outcome: Outcome, weights: Floats | None = None, *, score: str, matlab: bool) -> float:
    """`jaccard|precision|recall@relaxed_matlab|relaxed_fixed`: per phase the mean over the videos that have it,
    then the mean over phases (Main.m; its deviation is over phases).

    With U the frames where p is predicted or true and h those of U that are right or forgiven: Jaccard h / U,
    precision h / predicted, recall h / true.
    """
    table: Floats = getattr(outcome.once(relaxed_scores, matlab), score)
    return float(mean_defined(case_means(table, weights)))


METRICS: dict[str, Named] = {}
for _matlab, _rule in ((True, "relaxed_matlab"), (False, "relaxed_fixed")):
    METRICS[f"accuracy@{_rule}"] = Named(partial(relaxed_accuracy, matlab=_matlab), has_relaxed_rules)
    for _score in ("jaccard", "precision", "recall"):
        METRICS[f"{_score}@{_rule}"] = Named(partial(relaxed_score, score=_score, matlab=_matlab), has_relaxed_rules)
