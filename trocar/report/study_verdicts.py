"""The leak verdicts of a study's scores, as results.json has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trocar.leakage.verdict import Verdict
from trocar.report.known_cases import KnownCases
from trocar.report.words import few_cases
from trocar.study.results import Score, StudyResults

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
