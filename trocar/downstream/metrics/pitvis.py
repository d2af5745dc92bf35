"""Instruments and the multi-task score of the PitVis-2023 challenge (arXiv:2409.01184). Steps are in
segmental.py.

A second has up to two of 19 instruments (0 = none or occluded). Seconds out of the patient have none of the 19 in the
ground truth, and count: an instrument that is predicted there is a false alarm. That is the challenge's script as it
stands since 12 September 2023 (`helper_scripts/evaluation_instruments.py`). Its versions of 10 and 11 September removed
these seconds and took the macro mean over instruments; no metric here is that.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import numpy as np
from sklearn.metrics import f1_score

from trocar.downstream.metrics.outcome import Floats, Ints, Named, Outcome, case_mean
from trocar.downstream.metrics.segmental import pitvis_steps_by_case

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
