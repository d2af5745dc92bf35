"""What is said of a set of weights and a test set, and lists of leaks with one line for many cases of one kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

ALONE = 3
"""Up to so many cases of one kind have a line each."""
_NAMED = re.compile(r"[^\s,]*\d[^\s,]*")


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


@dataclass(frozen=True)
class Folded:
    """Leaks of one kind: `pools` and `tests` are `source/case`, in pairs; `how` is that of all, or of the first."""

    pools: tuple[str, ...]
    tests: tuple[str, ...]
    tasks: tuple[str, ...]
    verdict: str
    how: str
    became: str

    @property
    def pool(self) -> str:
        """The case of the pool, or how many there are of which source."""
        return called(self.pools)

    @property
    def test(self) -> str:
        """The held-out case, or how many there are of which set."""
        return called(self.tests)


def fold(leaks: Sequence[Mapping[str, Any]]) -> list[Folded]:
    """`leaks` as `Leak.as_json` gives them -> a line for each kind, in the order of its first leak.

    A kind is one source of the pool, held-out set, tasks, verdict, what became of it, and how it was found but for
    names and numbers.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for leak in leaks:
        sources = (leak["pool"].partition("/")[0], leak["test"].partition("/")[0])
        kind = (
            *sources,
            tuple(leak["tasks"]),
            leak["verdict"],
            str(leak.get("became", "")),
            _NAMED.sub("#", leak["how"]),
        )
        groups.setdefault(kind, []).append(leak)
    return [line for same in groups.values() for line in ([_line(same)] if len(same) > ALONE else map(_one, same))]


def called(cases: Sequence[str]) -> str:
    """`bkai/12` of one, `60 cases of bkai` of many; a case that stands in several pairs counts once."""
    names = dict.fromkeys(cases)
    if len(names) == 1:
        return next(iter(names))
    return f"{len(names)} cases of {next(iter(names)).partition('/')[0]}"


def _one(leak: Mapping[str, Any]) -> Folded:
    return Folded(
        (leak["pool"],),
        (leak["test"],),
        tuple(leak["tasks"]),
        leak["verdict"],
        leak["how"],
        str(leak.get("became", "")),
    )


def _line(same: Sequence[Mapping[str, Any]]) -> Folded:
    how = same[0]["how"] if len({leak["how"] for leak in same}) == 1 else f"such as: {same[0]['how']}"
    pools, tests = (tuple(leak[name] for leak in same) for name in ("pool", "test"))
    return Folded(pools, tests, tuple(same[0]["tasks"]), same[0]["verdict"], how, str(same[0].get("became", "")))
