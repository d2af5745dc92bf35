"""Sections on what sources and sizes were worth, and on the labels: only what the arms identify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from trocar.report.charts import bar, scale_of
from trocar.study.report.analysis import Analysis, Compared, bounds_of
from trocar.study.report.charts import learning_curves, scaling_chart
from trocar.study.report.html import cell, head, section, signed, span, table
from trocar.study.statistics.crossed import Estimate
from trocar.study.statistics.source_value import SourceContrast, SourceValue

Line = tuple[str, str, Estimate, bool]
"""Kind of comparison, what is compared, the number, and whether it is a difference."""


def labels(compared: Sequence[Compared]) -> str:
    """Learning curves, where there are several budgets."""
    drawn = [(one, learning_curves(one)) for one in compared if one.curves]
    if not drawn:
        return ""
    figures = [
        f"<figure class=wide><h3>{escape(one.name)}</h3>{svg}<figcaption>{escape(one.metric)} against labelled cases, "
        "those of validation included; bars are 95 % intervals, a little apart so that they can be seen.</figcaption>"
        f"</figure>"
        for one, svg in drawn
    ]
    areas = "".join(_areas(one) for one, _ in drawn)
    lead = "How the score grows with the number of labelled cases."
    return section("Learning curves", lead, f'<div class="curves">{"".join(figures)}</div>', areas)


def _areas(one: Compared) -> str:
    known = [curve for curve in one.curves if curve.area is not None]
    scale = scale_of(end for curve in known if curve.area for end in (curve.area.low, curve.area.high))
    rows = [_row(("", curve.arm, curve.area, False), scale) for curve in known if curve.area is not None]
    text = f"Area under the curve of {one.name}: its mean height over log(labelled cases)."
    return f'<p class="note">{escape(text)}</p>{table(head(_titles("Arm")), rows)}' if rows else ""


def source_values(analysis: Analysis) -> str:
    """Contrasts of sources, and values where they are identified."""
    if not analysis.compared:
        return ""
    lead = (
        "Differences of arms that differ in one source, then values of sources where the arms identify them. None of "
        "these was declared, so none is tested."
    )
    return section("What each source was worth", lead, *(_value(one) for one in analysis.compared))


def _value(one: Compared) -> str:
    title = f"<h3>{escape(one.name)}</h3>"
    if isinstance(one.value, str):
        return f'{title}<p class="note">{escape(one.value)}.</p>'
    lines = list(_lines(one.value))
    differences = [end for *_, number, is_difference in lines if is_difference for end in (number.low, number.high)]
    levels = [end for *_, number, is_difference in lines if not is_difference for end in (number.low, number.high)]
    scales = {True: scale_of([0.0, *differences]), False: scale_of(levels)}
    rows = [_row(line, scales[line[3]], first=True) for line in lines]
    body = table(head(["Comparison", *_titles("Sources")]), rows) if rows else ""
    nothing = "" if rows else '<p class="note">No two arms differ in one source alone.</p>'
    return f"{title}{body}{nothing}{_why_not(one.value)}"


def _lines(value: SourceValue) -> Iterator[Line]:
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


def _why_not(value: SourceValue) -> str:
    reasons = {"Shapley values": value.shapley.reason, "Regression on shares": value.regression.reason}
    texts = [f"{name}: {reason}." for name, reason in reasons.items() if reason]
    fit = value.regression
    if fit.values:
        misfit = f"its residuals have a root mean square of {fit.misfit:.3f}" if fit.misfit is not None else "no check"
        texts.append(f"Regression: {fit.arms} arms, {len(fit.columns)} columns, {fit.spare} to spare; {misfit}.")
    return "".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def scales(analysis: Analysis) -> str:
    """Scores over sizes of one mixture, with a power law where one can be fitted."""
    found = [(one, each) for one in analysis.compared for each in one.scales]
    lead = "Arms of one mixture at three or more sizes; a power law where five or more nested sizes allow one."
    if not found:
        none = '<p class="note">No mixture was run at three sizes or more, so there is nothing to fit.</p>'
        return section("Scaling", lead, none)
    figures = []
    for number, (one, each) in enumerate(found):
        law = each.law
        text = f"{each.reason}." if each.reason else ""
        if law is not None:
            text = (
                f"Exponent {law.exponent[0]:.2f} {span(*law.exponent[1:], 2)}, limit {law.limit[0]:.3f} "
                f"{span(*law.limit[1:])}, {law.scope}. Dotted beyond the largest size, at most twice as far."
            )
            if law.too_narrow:
                text += " Too narrow: with so few test cases band and intervals miss the truth more often than 1 in 20."
        svg = scaling_chart(each, one.metric, bounds_of(one.metric), f"scaling-{number}")
        names = ", ".join(point.name for point in each.points)
        figures.append(
            f"<figure class=wide><h3>{escape(one.name)}</h3>{svg}"
            f"<figcaption>{escape(f'{one.metric} against cases: {names}. {text}')}</figcaption></figure>"
        )
    return section("Scaling", lead, f'<div class="curves">{"".join(figures)}</div>')


def _titles(what: str) -> list[str]:
    return [what, "Value", "", "95 % interval"]


def _row(line: Line, scale: tuple[float, float], first: bool = False) -> str:
    kind, what, estimate, is_difference = line
    value = signed(estimate.value) if is_difference else f"{estimate.value:.3f}"
    narrow = "<small class=mark>too narrow</small>" if estimate.too_narrow else ""
    drawn = bar(estimate.value, (estimate.low, estimate.high), scale, zero=is_difference)
    return (
        f"<tr>{cell(kind) if first else ''}<th scope=row>{escape(what)}</th><td>{value}</td>"
        f"<td class=interval>{drawn}</td><td>{span(estimate.low, estimate.high)}{narrow}</td></tr>"
    )
