"""What labels, sources and sizes were worth: learning curves, values and scaling, only where the arms identify them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trocar.report.charts import draw_learning_curves, draw_scaling, scale_of
from trocar.report.study_analysis import Compared, bounds_of
from trocar.study.statistics.crossed import Estimate
from trocar.study.statistics.scaling import Scaling
from trocar.study.statistics.source_value import SourceContrast, SourceValue


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
