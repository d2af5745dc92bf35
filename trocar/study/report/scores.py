"""Sections on scores: leaders, ranks, declared comparisons, the heat map. Plain data in, HTML out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from trocar.leakage.verdict import Verdict
from trocar.report.charts import bar, scale_of
from trocar.study.plan.evaluations import labels_of
from trocar.study.report.analysis import LEVEL, Analysis, Compared
from trocar.study.report.html import cell, few, head, number, section, signed, span, table
from trocar.study.report.summary import count
from trocar.study.report.verdicts import WorstVerdict, class_table
from trocar.study.results.results import StudyResults
from trocar.study.statistics.contrasts import Contrast
from trocar.study.statistics.crossed import CASES_ONLY, FEWEST_DRAWN, Estimate
from trocar.study.statistics.ranking import ArmRanking

KINDS = {"pretrained": "", "init": "what arms began from", "random": "random weights", "backbone": "given weights"}
SHOWN = 3
"""Reasons of a verdict that are told."""
Verdicts = Mapping[tuple[str, str], WorstVerdict]


def leaders(results: StudyResults, analysis: Analysis, verdicts: Verdicts) -> str:
    """One table per task and protocol, best first."""
    lead = "Mean over seeds with its 95 % interval, over seeds and over test cases that all arms share."
    parts = [_leader_table(results, one, verdicts) for one in analysis.compared]
    return section("Leaders", lead, *parts, *_reasons(verdicts), anchor="leaders")


def _leader_table(results: StudyResults, one: Compared, verdicts: Verdicts) -> str:
    scale = scale_of(end for arm in one.arms for end in (arm.value, arm.low, arm.high))
    titles = ["", "Arm", one.metric, "", "95 % interval", "Seeds", "Against its init", "Leak verdict"]
    rows = [_leader(results, one, place, arm, scale, verdicts) for place, arm in enumerate(one.arms, start=1)]
    labels = f"{labels_of(one.budget)}, {one.labelled} with those of validation"
    down = " Smaller is better." if one.smaller_is_better else ""
    text = f"{count(one.arms[0].cases, 'test case')}; {labels}.{down}{_cautions(one)}"
    body = table(head(titles, numbers=(0, 2, 5)), rows)
    return f'<h3>{escape(one.name)}</h3>{body}<p class="note">{escape(text)}</p>{class_table(one)}'


def _leader(
    results: StudyResults, one: Compared, place: int, arm: Estimate, scale: tuple[float, float], verdicts: Verdicts
) -> str:
    kind = results.arms[arm.name]
    small = f"<small>{escape(KINDS.get(kind, kind))}</small>" if KINDS.get(kind, kind) else ""
    fixed = one.crossed[arm.name].fixed
    cells = [
        cell(str(place), "number"),
        f"<th scope=row>{escape(arm.name)}{small}</th>",
        f"<td class=number><b>{number(arm.value)}</b></td>",
        f"<td class=interval>{bar(arm.value, (arm.low, arm.high), scale)}</td>",
        f"<td>{span(arm.low, arm.high)}{_mark(arm, fixed)}</td>",
        cell("given" if fixed else str(arm.seeds), "number"),
        f"<td>{_against_init(results, one, arm.name)}</td>",
        verdict_cell(verdicts[one.cell[0], arm.name]),
    ]
    return f'<tr class="{"own" if kind == "pretrained" else "baseline"}">{"".join(cells)}</tr>'


def verdict_cell(judged: WorstVerdict) -> str:
    """A verdict in words; colour only repeats them."""
    look = "good" if judged.verdict is Verdict.CLEAN else "bad"
    return f'<td class="verdict {look}">{escape(judged.verdict.value)}</td>'


def _mark(arm: Estimate, fixed: bool) -> str:
    """What an interval leaves out."""
    marks = ["too narrow"] * arm.too_narrow + ["cases only"] * (arm.scope == CASES_ONLY and not fixed)
    return f"<small class=mark>{', '.join(marks)}</small>" if marks else ""


def _against_init(results: StudyResults, one: Compared, arm: str) -> str:
    init = results.init_of.get(arm)
    if init is None or init not in one.crossed.arms:
        return "–"
    difference = one.crossed.difference(arm, init)
    return f"{signed(difference.value)} <small>{span(difference.low, difference.high)}</small>"


def _cautions(one: Compared) -> str:
    texts = []
    if any(arm.too_narrow for arm in one.arms):
        texts.append("Too narrow: with so few test cases the interval covers the truth less often than it says.")
    if any(arm.scope == CASES_ONLY and not one.crossed[arm.name].fixed for arm in one.arms):
        texts.append("Cases only: one seed or start, so the interval says nothing about another one.")
    undefined = max(arm.undefined for arm in one.arms)
    if undefined > 0:
        texts.append(f"The metric is undefined on up to {100 * undefined:.0f} % of the draws of cases.")
    return "".join(f" {text}" for text in texts)


def _reasons(verdicts: Verdicts) -> list[str]:
    rows = []
    for (task, arm), judged in verdicts.items():
        if judged.verdict is not Verdict.CLEAN:
            why = "; ".join(judged.why[:SHOWN]) or "the reasons name private cases"
            why += f"; and {len(judged.why) - SHOWN} more reasons" if len(judged.why) > SHOWN else ""
            about = f" ({few(judged.cases)})" if judged.cases else ""
            cells = [cell(task), cell(arm), verdict_cell(judged), cell(f"{why}{about}", "wide")]
            rows.append(f"<tr>{''.join(cells)}</tr>")
    title = "<h3>Why scores are not known to be free of leaks</h3>"
    return [title + table(head(["Task", "Arm", "Verdict", "Why"]), rows)] if rows else []


def ranks(ranking: ArmRanking | None) -> str:
    """Mean rank over tasks."""
    if ranking is None:
        return ""
    titles = ["Arm", "Mean rank", "95 % interval", *ranking.tasks, "Best in"]
    rows = []
    for rank in ranking.ranks:
        cells = [
            f"<th scope=row>{escape(rank.arm)}</th>",
            cell(number(rank.mean, 2), "number"),
            cell(span(rank.low, rank.high, 1)),
            *(cell(f"{rank.ranks[task]:g}", "number") for task in ranking.tasks),
            cell(f"{100 * rank.best:.0f} %" if math.isfinite(rank.best) else "–", "number"),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    lead = (
        f"1 is best. Intervals are {ranking.scope}, from tests of the arm against all others on all of these tasks; "
        "nothing is said about other tasks."
    )
    if any(math.isfinite(rank.best) for rank in ranking.ranks):
        lead += " “Best in” is the share of draws in which no arm has a better mean rank."
    else:
        lead += f" “Best in” is left open: a task has fewer than {FEWEST_DRAWN} test cases, which cannot be drawn from."
    if ranking.too_narrow:
        lead += " Too narrow: with so few test cases the intervals miss the truth more often than 1 in 20."
    left = f"Not ranked, because an arm has no score: {', '.join(ranking.left_out)}." if ranking.left_out else ""
    numbers = (1, *range(3, len(titles)))
    note = f'<p class="note">{escape(left)}</p>' if left else ""
    return section("Ranks over tasks", lead, table(head(titles, numbers), rows), note)


def comparisons(results: StudyResults, analysis: Analysis) -> str:
    """The declared contrasts, tested and corrected."""
    if not results.contrasts:
        return section("Declared comparisons", "None was declared, so nothing was tested.")
    lead = (
        f"Two-sided tests of the {len(analysis.contrasts)} declared comparisons and no others, corrected together "
        f"(Holm, family-wise error {LEVEL:g}). Intervals are of one difference each and not corrected."
    )
    scale = scale_of([0.0, *(end for c in analysis.contrasts for end in (c.difference.low, c.difference.high))])
    tests = ["p cases", "p seeds", "p Holm", "Result"]
    titles = ["Task", "Comparison", "Difference", "", "95 % interval", "Cases", *tests]
    rows = [_contrast(one, scale) for one in analysis.contrasts]
    notes = [f"{a} against {b} could not be tested: {why}." for (a, b), why in analysis.untested.items()]
    text = (
        f"p cases: {_permutation(analysis.contrasts)}, for these trained models. p seeds: t test over seeds and cases. "
        "The larger of the two is corrected. Not shown to differ is not shown to be equal. Underpowered: no outcome "
        "on so few test cases could have passed."
    )
    body = table(head(titles, numbers=(2, 5, 6, 7, 8)), rows) if rows else ""
    return section("Declared comparisons", lead, body, *(f'<p class="note">{escape(n)}</p>' for n in [text, *notes]))


def _permutation(contrasts: Sequence[Contrast]) -> str:
    """What was done with the test cases: it depends on their number."""
    exact = {one.exact for one in contrasts}
    if exact == {True}:
        return "exact permutation of the test cases"
    most = max((one.difference.cases for one in contrasts if one.exact), default=0)
    few = f" (up to {most} cases all of them, which is exact)" if most else ""
    return f"permutation of the test cases, a random sample of their swaps{few}"


def outcome_of(contrast: Contrast) -> str:
    """The result of a test in words."""
    return contrast.underpowered or ("different" if contrast.different else "not shown to differ")


def _contrast(contrast: Contrast, scale: tuple[float, float]) -> str:
    d = contrast.difference
    narrow = "<small class=mark>too narrow</small>" if d.too_narrow else ""
    cells = [
        cell(contrast.task, "wrap"),
        f"<th scope=row>{escape(contrast.a)}<br><small class=line>minus {escape(contrast.b)}</small></th>",
        cell(signed(d.value), "number"),
        f"<td class=interval>{bar(d.value, (d.low, d.high), scale, zero=True)}</td>",
        f"<td>{span(d.low, d.high)}{narrow}</td>",
        cell(str(d.cases), "number"),
        *(cell(_p(p), "number") for p in (contrast.p_cases, contrast.p_seeds, contrast.p_holm)),
        cell(outcome_of(contrast), "wrap"),
    ]
    return f'<tr class="{"own" if contrast.different else "baseline"}">{"".join(cells)}</tr>'


def _p(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def heat(results: StudyResults, compared: Sequence[Compared]) -> str:
    """Composition x task; colour is the difference from the arm's init, on a scale of its own in every column."""
    arms = [arm for arm in results.arms if any(arm in one.crossed.arms for one in compared)]
    if len(compared) < 2 or len(arms) < 2:
        return ""
    most = [_most(results, one) for one in compared]
    rows = []
    for arm in arms:
        cells = [_heat_cell(results, one, arm, top) for one, top in zip(compared, most, strict=True)]
        rows.append(f"<tr><th scope=row>{escape(arm)}</th>{''.join(cells)}</tr>")
    titles = ["Arm", *(f"{one.name}\n{one.metric}" for one in compared)]
    lead = (
        "The score, and below it the difference from what the arm began from. Blue is better, orange worse, each "
        "column on its own scale: colours are sizes of differences, not tests."
    )
    return section("Compositions and tasks", lead, table(head(titles), rows, "scores heat"))


def _difference(results: StudyResults, one: Compared, arm: str) -> float:
    init = results.init_of.get(arm)
    known = one.crossed.arms
    return known[arm].value - known[init].value if init in known and arm in known and init is not None else math.nan


def _most(results: StudyResults, one: Compared) -> float:
    found = [abs(d) for arm in one.crossed.arms if math.isfinite(d := _difference(results, one, arm))]
    return max(found, default=0.0)


def _heat_cell(results: StudyResults, one: Compared, arm: str, most: float) -> str:
    if arm not in one.crossed.arms:
        return "<td>–</td>"
    difference = _difference(results, one, arm)
    value = number(one.crossed[arm].value)
    if not math.isfinite(difference):
        return f"<td>{value}</td>"
    better = difference < 0 if one.smaller_is_better else difference > 0
    share = 100 * 0.45 * abs(difference) / most if most else 0.0
    colour = f"color-mix(in srgb, var(--{'series' if better else 'reference'}) {share:.0f}%, transparent)"
    return f'<td style="background: {colour}">{value}<small>{signed(difference)}</small></td>'
