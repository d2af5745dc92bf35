"""The verdict that stands beside a score: has any part of a backbone's history seen the test cases?

And copies between the training and the test cases of one labelled data set: the same picture in two of its splits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from trocar.core.messages import Say
from trocar.core.random import I64
from trocar.data.catalog.catalog import Catalog
from trocar.data.remote.mirror import is_known
from trocar.data.remote.store import is_remote
from trocar.downstream.labels import Judged, LabelledFrames
from trocar.errors import TrocarError
from trocar.leakage.exposure import Exposure, Part, by_identity, exposure_of
from trocar.leakage.held_out_sources import case_names, of_data
from trocar.leakage.identities import Case
from trocar.leakage.matching import Copy, compare
from trocar.leakage.pictures import Pictures, plain_variants
from trocar.leakage.search import HeldOut, Leak, find_leaks
from trocar.leakage.verdict import Finding, Verdict, by_severity

REASONS_SHOWN = 8
MOST = 10_000
"""Frames that are compared, one a second at most; of a larger set every so many seconds of each video."""
PAIRS_SHOWN = 6


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
            "why": list(dict.fromkeys(finding.why for finding in worst))[:REASONS_SHOWN],
        }


class Judge:
    """Judges backbones on some cases of one labelled data set; the pictures are hashed when first needed."""

    def __init__(self, data: LabelledFrames, cases: Collection[str], say: Say = lambda _: None) -> None:
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


def judging(data: LabelledFrames, cases: Collection[str], say: Say = lambda _: None) -> Judged:
    """`Judge.verdict` of these cases as JSON values, for who does not know this room."""
    judge = Judge(data, cases, say)
    return lambda backbones: judge.verdict(backbones).as_json()


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
    if part.catalog is None or not (is_known(part.catalog) if is_remote(part.catalog) else Path(part.catalog).is_dir()):
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


def rows_to_compare(data: LabelledFrames, most: int = MOST) -> I64:
    """int64[m] rows of the table, at most about `most`, spread over all videos."""
    frames = data.frames
    second = pd.Series(np.floor(frames["time_s"] + 1e-6), index=frames.index)
    timed = (frames.groupby("video")["time_s"].transform("nunique") > 1) & (not data.untimed)
    rows = np.flatnonzero(~(pd.DataFrame({"video": frames["video"], "second": second}).duplicated() & timed))
    every = -(-len(rows) // most)
    # By the clock of each video and not by place: a copy is then looked for at the same moments.
    kept = np.where(timed.iloc[rows], second.iloc[rows] % every == 0, np.arange(len(rows)) % every == 0)
    chosen: I64 = rows[kept.astype(bool)].astype(np.int64)
    return chosen


def copies_within(data: LabelledFrames, rows: I64, images: Iterable[npt.NDArray[np.uint8]]) -> list[str]:
    """In lines, which test cases show pictures of training cases, of uint8 [H, W, 3] of each of the `rows` in order.

    Without a training and a test split every case is compared with every other one, as any two may be divided by one.
    """
    frames = data.frames.iloc[rows]
    hashes = (
        np.stack([plain_variants(Image.fromarray(image)) for image in images]) if len(rows) else np.zeros((0, 1, 32))
    )
    videos = list(dict.fromkeys(frames["video"]))
    number = {video: index for index, video in enumerate(videos)}
    case_of = frames.groupby("video")["case"].first()
    every = Pictures(
        hashes.astype(np.uint8),
        frames["video"].map(number).to_numpy(np.int64),
        frames["time_s"].to_numpy(np.float64),
        tuple(map(str, videos)),
        tuple(("", str(case_of[video])) for video in videos),
        untimed=data.untimed,
    )
    split = frames["split"].to_numpy(str)
    halves = bool((split == "train").any() and np.isin(split, ("test", "val")).any())
    queries = every.only(np.isin(split, ("test", "val"))) if halves else every
    pool = every.only(split == "train") if halves else every
    found = compare(queries, replace(pool, hashes=pool.hashes[:, :1]), other_cases=True)
    return _copy_lines(every, found.copies, found.pairs, "training" if halves else "other")


def _copy_lines(every: Pictures, copies: Sequence[Copy], pairs: int, whose: str) -> list[str]:
    alike: dict[tuple[str, str], Copy] = {}
    for copy in copies:
        pair = every.cases[copy.query][1], every.cases[copy.pool][1]
        alike.setdefault(pair if whose == "training" else (min(pair), max(pair)), copy)
    if not alike:
        return []
    lines = [
        f"{len(alike)} pair(s) of cases show the same pictures ({pairs:,} pairs of pictures compared): what a test "
        f"case shares with a {whose} case makes a score look better than it is"
    ]
    for (test, other), copy in list(alike.items())[:PAIRS_SHOWN]:
        where = "at no common offset in time" if copy.offset_s is None else f"{copy.offset_s:+.1f} s away"
        where = "isolated pictures" if copy.rows else where
        lines.append(f"case {test} and the {whose} case {other}: {copy.frames} picture(s), {where}")
    return [*lines, f"and {len(alike) - PAIRS_SHOWN} more pairs"] if len(alike) > PAIRS_SHOWN else lines
