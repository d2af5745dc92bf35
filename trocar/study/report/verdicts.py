"""Leak verdicts of a study's scores, as results.json has them.

What masks score class by class, of tasks whose data declare a background: a mean hides the rare classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import numpy as np

from trocar.downstream.metrics.registry import class_lines
from trocar.downstream.metrics.segmentation import per_class, row_mean
from trocar.downstream.metrics.segmentation_outcome import SegmentationOutcome
from trocar.leakage.verdict import Verdict
from trocar.study.report.analysis import Compared
from trocar.study.report.html import cell, head, number, table
from trocar.study.report.known_cases import KnownCases
from trocar.study.results.results import Score, StudyResults


def class_table(one: Compared) -> str:
    """IoU of every class, the background last, and of every arm the mean over its runs; empty for other tasks."""
    values: dict[str, list[np.ndarray]] = {arm.name: [] for arm in one.arms}
    last: SegmentationOutcome | None = None
    for score in one.scores:
        outcome = score.outcome
        if not isinstance(outcome, SegmentationOutcome) or outcome.background is None:
            return ""
        last = outcome
        values[score.arm].append(per_class(outcome))
    if last is None or last.background is None:
        return ""
    means = {arm: row_mean(np.stack(runs, axis=1)) for arm, runs in values.items()}
    rows = []
    for name, line in class_lines(last.classes, last.classes[last.background]).items():
        place = last.classes.index(name)
        cells = [cell(number(float(mean[place])), "number") for mean in means.values()]
        rows.append(f"<tr><th scope=row>{escape(line)}</th>{''.join(cells)}</tr>")
    numbers = tuple(range(1, len(means) + 1))
    return f"<h4>IoU by class</h4>{table(head(['Class', *means], numbers), rows)}"


@dataclass(frozen=True)
class WorstVerdict:
    """The worst verdict over the runs of an arm on a task, the test cases it is about, and why in words."""

    verdict: Verdict
    cases: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


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
