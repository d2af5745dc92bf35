"""Scores of a study as tables: leaders, declared comparisons, ranks, and compositions against tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trocar.downstream.metrics.registry import class_lines
from trocar.downstream.metrics.segmentation import per_class, row_mean
from trocar.downstream.metrics.segmentation_outcome import SegmentationOutcome
from trocar.report.charts import scale_of
from trocar.report.study_analysis import Compared
from trocar.report.study_verdicts import WorstVerdict
from trocar.report.words import count
from trocar.study.config import labels_of
from trocar.study.results import StudyResults
from trocar.study.statistics.contrasts import Contrast
from trocar.study.statistics.crossed import CASES_ONLY, Estimate

KINDS = {"pretrained": "", "init": "what arms began from", "random": "random weights", "backbone": "given weights"}
Verdicts = Mapping[tuple[str, str], WorstVerdict]
Ends = tuple[float, float]
"""Of a scale that the rows of a table share."""


@dataclass(frozen=True)
class Leader:
    """An arm: `kind` in words, empty for a pretrained one; `fixed` weights have no seeds; `marks` say what its interval
    leaves out; `against` is its difference from its init.
    """

    arm: Estimate
    kind: str
    fixed: bool
    marks: str
    against: Estimate | None
    verdict: WorstVerdict


@dataclass(frozen=True)
class ClassTable:
    """IoU of every class (a line each, the background last) and arm, the mean over its runs."""

    arms: Sequence[str]
    lines: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class LeaderTable:
    """The arms on one task under one protocol, best first."""

    name: str
    metric: str
    leaders: Sequence[Leader]
    scale: Ends
    note: str
    classes: ClassTable | None


@dataclass(frozen=True)
class HeatCell:
    """A score and its difference from the arm's init, NaN without one; `share` of the column's strongest colour."""

    value: float
    difference: float
    better: bool
    share: float


def leader_table(results: StudyResults, one: Compared, verdicts: Verdicts) -> LeaderTable:
    """The leaders of one task under one protocol."""
    labels = f"{labels_of(one.budget)}, {one.labelled} with those of validation"
    down = " Smaller is better." if one.smaller_is_better else ""
    return LeaderTable(
        name=one.name,
        metric=one.metric,
        leaders=[_leader(results, one, arm, verdicts) for arm in one.arms],
        scale=scale_of(end for arm in one.arms for end in (arm.value, arm.low, arm.high)),
        note=f"{count(one.arms[0].cases, 'test case')}; {labels}.{down}{_cautions(one)}",
        classes=_class_table(one),
    )


def _leader(results: StudyResults, one: Compared, arm: Estimate, verdicts: Verdicts) -> Leader:
    kind, init = results.arms[arm.name], results.init_of.get(arm.name)
    fixed = one.crossed[arm.name].fixed
    marks = ["too narrow"] * arm.too_narrow + ["cases only"] * (arm.scope == CASES_ONLY and not fixed)
    return Leader(
        arm=arm,
        kind=KINDS.get(kind, kind),
        fixed=fixed,
        marks=", ".join(marks),
        against=one.crossed.difference(arm.name, init) if init is not None and init in one.crossed.arms else None,
        verdict=verdicts[one.cell[0], arm.name],
    )


def _cautions(one: Compared) -> str:
    text = ""
    if any(arm.too_narrow for arm in one.arms):
        text += " Too narrow: with so few test cases the interval covers the truth less often than it says."
    if any(arm.scope == CASES_ONLY and not one.crossed[arm.name].fixed for arm in one.arms):
        text += " Cases only: one seed or start, so the interval says nothing about another one."
    undefined = max(arm.undefined for arm in one.arms)
    if undefined > 0:
        text += f" The metric is undefined on up to {100 * undefined:.0f} % of the draws of cases."
    return text


def _class_table(one: Compared) -> ClassTable | None:
    """For tasks whose data declare a background: a mean hides the rare classes."""
    values: dict[str, list[np.ndarray]] = {arm.name: [] for arm in one.arms}
    last: SegmentationOutcome | None = None
    for score in one.scores:
        outcome = score.outcome
        if not isinstance(outcome, SegmentationOutcome) or outcome.background is None:
            return None
        last = outcome
        values[score.arm].append(per_class(outcome))
    if last is None or last.background is None:
        return None
    means = {arm: row_mean(np.stack(runs, axis=1)) for arm, runs in values.items()}
    names = class_lines(last.classes, last.classes[last.background])
    lines = {line: [float(mean[last.classes.index(name)]) for mean in means.values()] for name, line in names.items()}
    return ClassTable(list(means), lines)


def difference_scale(contrasts: Sequence[Contrast]) -> Ends:
    """One scale for all declared contrasts, with 0 on it."""
    return scale_of([0.0, *(end for one in contrasts for end in (one.difference.low, one.difference.high))])


def permuted(contrasts: Sequence[Contrast]) -> str:
    """What was done with the test cases, in words: it depends on their number."""
    if {one.exact for one in contrasts} == {True}:
        return "exact permutation of the test cases"
    most = max((one.difference.cases for one in contrasts if one.exact), default=0)
    few = f" (up to {most} cases all of them, which is exact)" if most else ""
    return f"permutation of the test cases, a random sample of their swaps{few}"


def heat(results: StudyResults, compared: Sequence[Compared]) -> dict[str, list[HeatCell | None]]:
    """Arm -> a cell per compared task, None where it has no score; empty for a single task or arm. Every column has a
    colour scale of its own.
    """
    arms = [arm for arm in results.arms if any(arm in one.crossed.arms for one in compared)]
    if len(compared) < 2 or len(arms) < 2:
        return {}
    differences = [{arm: _difference(results, one, arm) for arm in one.crossed.arms} for one in compared]
    most = [max((abs(d) for d in column.values() if math.isfinite(d)), default=0.0) for column in differences]
    columns = list(zip(compared, differences, most, strict=True))
    return {arm: [_heat_cell(arm, *column) for column in columns] for arm in arms}


def _difference(results: StudyResults, one: Compared, arm: str) -> float:
    init = results.init_of.get(arm)
    known = one.crossed.arms
    return known[arm].value - known[init].value if init is not None and init in known else math.nan


def _heat_cell(arm: str, one: Compared, differences: Mapping[str, float], most: float) -> HeatCell | None:
    if arm not in differences:
        return None
    difference = differences[arm]
    better = difference < 0 if one.smaller_is_better else difference > 0
    return HeatCell(one.crossed[arm].value, difference, better, 45 * abs(difference) / most if most else 0.0)
