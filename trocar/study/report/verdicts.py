"""Leak verdicts of a study's scores, as results.json has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trocar.data.leak.verdict import Verdict
from trocar.study.report.known_cases import KnownCases
from trocar.study.results.results import Score, StudyResults


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
