"""What is said of a set of weights and a test set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """From good to bad: of several parts of a history, the worst counts.

    `suspect` is positive evidence without proof, so it ranks above `unknown`, which is no evidence either way.
    """

    CLEAN = "clean"
    UNKNOWN = "unknown"
    SUSPECT = "suspect"
    SEEN = "test case seen unlabelled"
    LABELS_SEEN = "test labels seen"

    @property
    def rank(self) -> int:
        """0 for clean, higher is worse."""
        return list(Verdict).index(self)

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """The worst of them; CLEAN of none."""
        return max(verdicts, key=lambda verdict: verdict.rank, default=cls.CLEAN)


@dataclass(frozen=True)
class Finding:
    """One reason for a verdict: the test case (`data set/case`, '' for all of them), and why in words."""

    verdict: Verdict
    case: str
    why: str

    def as_json(self) -> dict[str, str]:
        """Values that JSON can hold; `from_json` is the inverse."""
        return {"verdict": self.verdict.value, "case": self.case, "why": self.why}

    @classmethod
    def from_json(cls, tree: dict[str, str]) -> Finding:
        """From what `as_json` gave. Raises KeyError or ValueError for anything else."""
        return cls(Verdict(tree["verdict"]), tree["case"], tree["why"])


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Worst first, then by case."""
    return sorted(findings, key=lambda finding: (-finding.verdict.rank, finding.case, finding.why))
