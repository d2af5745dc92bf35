"""Leak verdicts of a study's scores, as results.json has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trocar.study.report.known_cases import KnownCases
from trocar.study.report.summary import CLEAN, NO_VERDICT
from trocar.study.results import Results, Score

ORDER = (CLEAN, NO_VERDICT, "unknown", "suspect", "test case seen unlabelled", "test labels seen")
"""From good to bad."""


@dataclass(frozen=True)
class Judged:
    """The worst verdict over the runs of an arm on a task, the test cases it is about, and why in words."""

    verdict: str
    cases: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


def judged(results: Results, known: KnownCases, scores: Iterable[Score]) -> dict[tuple[str, str], Judged]:
    """(task, arm) -> its verdict. Of private cases neither names nor reasons, which name them, are told."""
    found: dict[tuple[str, str], Judged] = {}
    for score in scores:
        leak = results.about(score).get("leak") or {}
        cases = tuple(str(case) for case in leak.get("cases", ()))
        open_to_all = all(known.may_show(case) for case in (*cases, *score.test_cases))
        one = Judged(
            str(leak.get("verdict", NO_VERDICT)),
            tuple(known.named(cases).values()),
            tuple(str(why) for why in leak.get("why", ())) if open_to_all else (),
        )
        key = (score.task, score.arm)
        if key not in found or _rank(one) > _rank(found[key]):
            found[key] = one
    return found


def _rank(one: Judged) -> int:
    return ORDER.index(one.verdict) if one.verdict in ORDER else len(ORDER)
