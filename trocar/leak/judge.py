"""The verdict that stands beside a score: has any part of a backbone's history seen the test cases?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trocar.backbones.exposure import Exposure, Part, by_identity, exposure_of
from trocar.data.catalog.catalog import Catalog
from trocar.data.leak.guard import Leak, find_leaks
from trocar.data.leak.held_out import HeldOut
from trocar.data.leak.identities import Case
from trocar.data.leak.verdict import Finding, Verdict, by_severity
from trocar.downstream.labels import LabelledFrames
from trocar.errors import TrocarError
from trocar.leak.against import case_names, of_data

SHOWN = 8


@dataclass(frozen=True)
class JudgedScore:
    """A verdict with its reasons, worst first; none for `clean`."""

    verdict: Verdict
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> JudgedScore:
        """From all that was found."""
        ordered = tuple(by_severity(dict.fromkeys(findings)))
        return cls(Verdict.worst(finding.verdict for finding in ordered), ordered)

    def as_json(self) -> dict[str, Any]:
        """What stands beside a number: the verdict, the cases it is about, and the first reasons."""
        worst = [finding for finding in self.findings if finding.verdict is self.verdict]
        return {
            "verdict": self.verdict.value,
            "cases": sorted({finding.case for finding in worst if finding.case}),
            "why": list(dict.fromkeys(finding.why for finding in worst))[:SHOWN],
        }


class Judge:
    """Judges backbones on some cases of one labelled data set; the pictures are hashed when first needed."""

    def __init__(
        self, data: LabelledFrames, cases: Collection[str], say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.data, self.say = data, say
        self.cases = sorted(cases)
        self.names: dict[str, Case] = case_names(data)

    def verdict(self, backbones: Sequence[str | Path]) -> JudgedScore:
        """The worst verdict over these backbones (names as for `load_backbone`).

        Names are asked first; where they do not settle a part, its frames are compared with the test frames, as long as
        its catalog is still there. Raises ConfigError for a backbone that means nothing.
        """
        return JudgedScore.of(finding for name in backbones for finding in self.of_exposure(exposure_of(name)))

    def of_exposure(self, exposure: Exposure) -> list[Finding]:
        """The findings of all parts of a history."""
        return [finding for part in exposure.parts for finding in self._of_part(part)]

    def _of_part(self, part: Part) -> list[Finding]:
        named = by_identity(part, [self.names[case] for case in self.cases])
        open_cases = {finding.case for finding in named if finding.verdict is Verdict.UNKNOWN}
        if not open_cases or not part.cases:
            return named
        settled = self._by_content(part, open_cases)
        kept = [f for f in named if f.verdict is not Verdict.UNKNOWN or f.case not in settled]
        return [*kept, *(finding for findings in settled.values() for finding in findings)]

    def _by_content(self, part: Part, open_cases: set[str]) -> Mapping[str, Sequence[Finding]]:
        """Test case -> what its pictures say, for those that were or can be compared."""
        digests = {"/".join(case): digest for case, digest in self.held_out.digests().items()}
        settled = {c: part.compared[digests[c]] for c in open_cases if digests.get(c) in part.compared}
        rest = open_cases - set(settled)
        pool = _reachable(part) if rest else None
        if pool is None:
            return settled
        leaks = find_leaks(pool.catalog, self.held_out, pool.videos, pool.without).leaks
        return settled | {case: _as_findings(part, [leak for leak in leaks if leak.test == case]) for case in rest}

    @cached_property
    def held_out(self) -> HeldOut:
        """The judged cases with their pictures."""
        return of_data(self.data, self.cases, self.say)


def verdict_of(backbone: str | Path, data: LabelledFrames, cases: Collection[str]) -> JudgedScore:
    """Whether a backbone has seen these cases of a data set; see `Judge`."""
    return Judge(data, cases).verdict([backbone])


def _as_findings(part: Part, leaks: Sequence[Leak]) -> list[Finding]:
    return [Finding(k.verdict, k.test, f"{part.name} ({part.role}) was trained on {k.pool}: {k.how}") for k in leaks]


@dataclass(frozen=True)
class _Pool:
    """What a run was trained on: videos of a catalog, but for some rows."""

    catalog: Catalog
    videos: list[int]
    without: list[int]


def _reachable(part: Part) -> _Pool | None:
    """The frames of a run; None if its catalog is gone or not the same any more."""
    if part.catalog is None or not Path(part.catalog).is_dir():
        return None
    try:
        catalog = Catalog.open(part.catalog)
    except TrocarError:
        return None
    columns = (catalog.videos.column(name).to_pylist() for name in ("source", "case_id"))
    cases = list(zip(*columns, strict=True))
    there = {case for case in set(cases) if part.has(case)}
    # A catalog that has grown still holds the cases; one that has lost some cannot speak for them.
    if len(there) < len(part.cases):
        return None
    videos = [video for video, case in enumerate(cases) if case in there]
    first, content = (catalog.videos.column(name).to_pylist() for name in ("first_row", "content_hash"))
    without = [first[video] + row for video in videos for row in part.left_out.get(content[video], ())]
    return _Pool(catalog, videos, without)
