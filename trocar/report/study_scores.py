"""Scores of a study as tables: leak verdicts, leaders, declared comparisons, ranks, compositions against tasks.

And what labels, sources and sizes were worth: learning curves, values and scaling, only where the arms identify them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trocar.downstream.metrics.outcome import SegmentationOutcome
from trocar.downstream.metrics.registry import class_lines
from trocar.downstream.metrics.segmentation import per_class, row_mean
from trocar.leakage.verdict import Verdict
from trocar.report.charts import draw_learning_curves, draw_scaling, scale_of
from trocar.report.page import count, few_cases
from trocar.report.shown_frames import KnownCases
from trocar.report.study_analysis import Compared, bounds_of
from trocar.study.config import labels_of
from trocar.study.results import Score, StudyResults
from trocar.study.statistics.contrasts import Contrast
from trocar.study.statistics.crossed import CASES_ONLY, Estimate
from trocar.study.statistics.scaling import Scaling
from trocar.study.statistics.source_value import SourceContrast, SourceValue

SHOWN = 3
"""Reasons of a verdict that are told."""


@dataclass(frozen=True)
class WorstVerdict:
    """The worst verdict over the runs of an arm on a task, the test cases it is about, and why in words."""

    verdict: Verdict
    cases: tuple[str, ...] = ()
    why: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether no test case was seen."""
        return self.verdict is Verdict.CLEAN

    @property
    def reasons(self) -> str:
        """The first reasons, and the cases they are about."""
        text = "; ".join(self.why[:SHOWN]) or "the reasons name private cases"
        if len(self.why) > SHOWN:
            text += f"; and {len(self.why) - SHOWN} more reasons"
        return f"{text} ({few_cases(self.cases)})" if self.cases else text


def judged(results: StudyResults, known: KnownCases, scores: Iterable[Score]) -> dict[tuple[str, str], WorstVerdict]:
    """(task, arm) -> its verdict. Of private cases neither names nor reasons, which name them, are told."""
    found: dict[tuple[str, str], WorstVerdict] = {}
    for score in scores:
        leak = results.about(score)["leak"]
        cases = tuple(str(case) for case in leak["cases"])
        open_to_all = all(known.may_show(case) for case in (*cases, *score.test_cases))
        one = WorstVerdict(
            Verdict(leak["verdict"]),
            tuple(known.named(cases).values()),
            tuple(str(why) for why in leak["why"]) if open_to_all else (),
        )
        key = (score.task, score.arm)
        if key not in found or one.verdict.rank > found[key].verdict.rank:
            found[key] = one
    return found


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


@dataclass(frozen=True)
class ValueLine:
    """A number with its interval, drawn on `scale`: `kind` of comparison (empty where the table has one kind), and
    `what` is compared.
    """

    kind: str
    what: str
    estimate: Estimate
    is_difference: bool
    scale: tuple[float, float]


@dataclass(frozen=True)
class LearningCurves:
    """Score over labelled cases on one task, and the areas under the curves."""

    name: str
    metric: str
    svg: str
    areas: Sequence[ValueLine]


@dataclass(frozen=True)
class SourceTable:
    """What the sources were worth on one task; `notes` say what is not identified."""

    name: str
    lines: Sequence[ValueLine]
    notes: Sequence[str]


def learning_curves(one: Compared) -> LearningCurves:
    """The curves of a task with several budgets."""
    known = [(curve.arm, curve.area) for curve in one.curves if curve.area is not None]
    scale = scale_of(end for _, area in known for end in (area.low, area.high))
    areas = [ValueLine("", arm, area, False, scale) for arm, area in known]
    return LearningCurves(one.name, one.metric, draw_learning_curves(one.curves, one.name), areas)


def source_table(one: Compared) -> SourceTable:
    """Contrasts of sources, and values where they are identified."""
    if isinstance(one.value, str):
        return SourceTable(one.name, (), [f"{one.value}."])
    found = list(_lines(one.value))
    ends = {
        kind: [end for *_, number, is_difference in found if is_difference == kind for end in (number.low, number.high)]
        for kind in (True, False)
    }
    scales = {True: scale_of([0.0, *ends[True]]), False: scale_of(ends[False])}
    lines = [ValueLine(*line, scales[line[3]]) for line in found]
    nothing = [] if lines else ["No two arms differ in one source alone."]
    return SourceTable(one.name, lines, [*nothing, *_not_identified(one.value)])


def _lines(value: SourceValue) -> Iterator[tuple[str, str, Estimate, bool]]:
    yield from (("one source alone − init", _amount(c), c.estimate, True) for c in value.single)
    yield from (("with − without", _amount(c), c.estimate, True) for c in value.left_out)
    yield from (("one in place of another", _amount(c), c.estimate, True) for c in value.swaps)
    yield from (("Shapley value", source, number, True) for source, number in value.shapley.values.items())
    for column, number in value.regression.values.items():
        slope = column == "log2 size"
        yield ("a doubling of size" if slope else "regression: an arm of it alone"), column, number, slope


def _amount(contrast: SourceContrast) -> str:
    swap = f" for {contrast.against}" if contrast.against else ""
    return f"{contrast.source}{swap}, {contrast.amount:g} cases: {contrast.arm} − {contrast.reference}"


def _not_identified(value: SourceValue) -> Iterator[str]:
    for name, reason in (("Shapley values", value.shapley.reason), ("Regression on shares", value.regression.reason)):
        if reason:
            yield f"{name}: {reason}."
    fit = value.regression
    if fit.values:
        misfit = f"its residuals have a root mean square of {fit.misfit:.3f}" if fit.misfit is not None else "no check"
        yield f"Regression: {fit.arms} arms, {len(fit.columns)} columns, {fit.spare} to spare; {misfit}."


def scaling_figures(compared: Sequence[Compared]) -> list[tuple[Compared, Scaling, str]]:
    """What grows with the size of one mixture, and its diagram."""
    found = [(one, each) for one in compared for each in one.scales]
    return [
        (one, each, draw_scaling(each, one.metric, bounds_of(one.metric), f"scaling-{number}"))
        for number, (one, each) in enumerate(found)
    ]
