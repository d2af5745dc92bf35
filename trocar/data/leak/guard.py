"""Keep held-out cases out of a pretraining pool: by published identity and by content, before anything is sampled."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from trocar.core.config import AsWritten, Config
from trocar.core.random import I64
from trocar.data.catalog.catalog import Catalog, to_numpy
from trocar.data.leak.held_out import HeldOut
from trocar.data.leak.identities import Case, identities
from trocar.data.leak.pictures import Pictures
from trocar.data.leak.verdict import Finding, Verdict
from trocar.errors import ConfigError
from trocar.privacy.marks import NO_MARKS, Marks

if TYPE_CHECKING:
    from trocar.data.leak.content import Copy

SHOWN = 12
FEW_PICTURES = 2
"""A case of so many pictures leaves as a whole when one of them is a copy: the other is the same scene."""
KEPT = "kept in the pool"
Policy = Literal["exclude", "error", "allow"]
Suspects = Literal["exclude", "keep"]


class Guarded(Config):
    """A labelled data set that models will be scored on; the fields are those of `trocar evaluate`."""

    data: Path = Field(description="the folder of the labelled data")
    layout: str | None = Field(
        default=None, description="its layout, as `trocar evaluate` calls it; null: recognised from the folder"
    )
    split: str | None = Field(
        default=None,
        description="the published split whose test and validation cases are held out; null: the data set's own",
    )
    phases: tuple[AsWritten, ...] = Field(default=(), description="class names in order, for a data set with its own")
    private: Marks = Field(default=NO_MARKS, description="what of it must not be shown")


class LeakGuard(Config):
    """Which cases must stay out of the pool, and what to do with those found in it."""

    against: list[str | Guarded] = Field(
        default=[],
        description="what is held out: folders of labelled data (their test and validation cases, or all where no "
        "split is known), published data sets (`cholec80`, `cholec80/41-80`, `cholec80:40-40` for the test and "
        "validation cases of a published split), or text files with a line `data set/case` for each case",
    )
    policy: Policy = Field(
        default="exclude",
        description="what becomes of held-out cases in the pool: they leave it, are an error, or stay and are reported",
    )
    suspects: Suspects = Field(
        default="exclude",
        description="whether cases that only look like held-out cases leave the pool too; under `policy: allow` "
        "nothing does",
    )


@dataclass(frozen=True)
class Leak:
    """A case of the pool that is one of the held-out cases, or looks like one.

    `pool` is `source/case` of the catalog, `test` of the held-out data; `frames` counts different pictures found again,
    0 where names alone say so. `verdict` is SEEN, or SUSPECT for pictures of a video without an order in time. `rows`:
    the catalog rows it is about, where it is about single pictures; none where it is about the whole case.
    """

    pool: str
    test: str
    tasks: tuple[str, ...]
    verdict: Verdict
    how: str
    frames: int = 0
    rows: tuple[int, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Values that JSON can hold: of `rows` their number, as `pictures`."""
        values = {key: value for key, value in self.__dict__.items() if key != "rows"}
        told = {"tasks": list(self.tasks), "verdict": self.verdict.value, "pictures": len(self.rows)}
        return values | told


@dataclass(frozen=True)
class FoundLeaks:
    """The held-out cases in a pool, one entry per pair of cases, and in lines, what was compared to find them and what
    only a person can tell.
    """

    leaks: tuple[Leak, ...] = ()
    compared: tuple[str, ...] = ()


def find_leaks(catalog: Catalog, held_out: HeldOut, videos: Sequence[int], without: Collection[int] = ()) -> FoundLeaks:
    """The held-out cases among these videos of a catalog, by pool case; `without`: catalog rows that do not count."""
    by_content, compared = _by_content(catalog, held_out, videos, without)
    found: dict[tuple[str, str], Leak] = {}
    for leak in (*_by_identity(catalog, held_out, videos), *by_content):
        known = found.get((leak.pool, leak.test))
        found[leak.pool, leak.test] = leak if known is None else _worse(known, leak)
    leaks = tuple(sorted(found.values(), key=lambda leak: (leak.pool, leak.test)))
    return FoundLeaks(leaks, (*compared, *_namesakes(catalog, held_out, videos, found.keys())))


def _worse(one: Leak, other: Leak) -> Leak:
    """Of two findings on one pair of cases the graver; single pictures of two videos of the case together."""
    if one.verdict is other.verdict and one.rows and other.rows:
        rows = tuple(sorted({*one.rows, *other.rows}))
        return replace(one, rows=rows, frames=one.frames + other.frames, how=f"{one.how}; {other.how}")
    if one.verdict is other.verdict:
        return other if one.rows else one
    return max(one, other, key=lambda leak: leak.verdict.rank)


def refuse(leaks: Iterable[Leak]) -> None:
    """Raises ConfigError that names case, task and the ways out, if a case of the pool is a held-out one."""
    seen = [leak for leak in leaks if leak.verdict is not Verdict.SUSPECT]
    if not seen:
        return
    ways = (
        "set leak.policy: exclude to leave them out before sampling, exclude the cases or the source yourself, take "
        "the data out of leak.against if it is not scored, or set leak.policy: allow, which writes the verdict beside "
        "every number"
    )
    cases = len({leak.test for leak in seen})
    raise ConfigError("\n".join([f"composition: the pool holds {cases} held-out case(s)", *_listed(seen), ways]))


@dataclass(frozen=True)
class Guarding:
    """What becomes of a pool: `cases` leave it, and the catalog rows `rows` of others; `kept` was found and stays."""

    found: FoundLeaks
    cases: frozenset[str] = frozenset()
    rows: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    kept: tuple[Leak, ...] = ()

    def became(self, leak: Leak) -> str:
        """In words, what was done about it."""
        if leak in self.kept:
            return KEPT
        return "left out" if leak.pool in self.cases else f"{len(leak.rows)} picture(s) left out"

    def records(self) -> list[dict[str, object]]:
        """The leaks as JSON values, each with what `became` of it."""
        return [{**leak.as_json(), "became": self.became(leak)} for leak in self.found.leaks]

    def describe(self, policy: Policy) -> list[str]:
        """What was compared, found and done, in lines."""
        leaks = self.found.leaks
        lines = [f"leak guard: {line}" for line in self.found.compared]
        if not leaks:
            return [*lines, "leak guard: no held-out case is in the pool"]
        whole = [leak for leak in leaks if leak not in self.kept and leak.pool in self.cases]
        parts = [leak for leak in leaks if leak not in self.kept and leak.pool not in self.cases]
        if whole:
            lines.append(f"leak guard: {len({leak.pool for leak in whole})} case(s) left out before sampling:")
            lines += _listed(whole)
        if parts:
            cases = len({leak.pool for leak in parts})
            lines.append(f"leak guard: {len(self.rows)} picture(s) of {cases} case(s) left out before sampling:")
            lines += _listed(parts)
        if self.kept:
            why = "by leak.policy: allow" if policy == "allow" else "by leak.suspects: keep (look at them yourself)"
            lines.append(f"leak guard: {len({leak.pool for leak in self.kept})} case(s) kept in the pool, {why}:")
            lines += _listed(self.kept)
        return lines


def guard(found: FoundLeaks, held_out: HeldOut, config: LeakGuard, size: Mapping[str, int]) -> Guarding:
    """What `config` does about what was found; `size` is the number of frames of each case of the pool.

    Raises ConfigError under `policy: error` if a case or picture of the pool is a held-out one, and where suspects are
    to be kept and every held-out case whose pictures are known is one: nothing would be left to score on.
    """
    if config.policy == "error":
        refuse(found.leaks)
    if config.policy == "allow":
        return Guarding(found, kept=found.leaks)
    kept = [leak for leak in found.leaks if leak.verdict is Verdict.SUSPECT and config.suspects == "keep"]
    _check_scored(kept, held_out)
    taken = [leak for leak in found.leaks if leak not in kept]
    rows: dict[str, set[int]] = {}
    for leak in taken:
        rows.setdefault(leak.pool, set()).update(leak.rows)
    whole = {leak.pool for leak in taken if not leak.rows}
    whole |= {case for case, of in rows.items() if size[case] <= FEW_PICTURES or len(of) >= size[case]}
    single = sorted(row for case, of in rows.items() if case not in whole for row in of)
    return Guarding(found, frozenset(whole), np.array(single, np.int64), tuple(kept))


def _check_scored(kept: Sequence[Leak], held_out: HeldOut) -> None:
    pictured = {show(case) for case in held_out.pictures.cases}
    if pictured and pictured <= {leak.test for leak in kept}:
        head = "composition: the pool holds what looks like every held-out case, and leak.suspects: keep keeps it:"
        ways = "set leak.suspects: exclude, or leak.policy: allow, which writes the verdict beside every number"
        raise ConfigError("\n".join([head, *_listed(kept), ways]))


def _listed(leaks: Sequence[Leak]) -> list[str]:
    lines = [f"  {leak.pool} {_relation(leak)} {leak.test} ({'; '.join(leak.tasks)}): {leak.how}" for leak in leaks]
    return [*lines[:SHOWN], f"  and {len(leaks) - SHOWN} more"] if len(leaks) > SHOWN else lines


def _relation(leak: Leak) -> str:
    return "may be" if leak.verdict is Verdict.SUSPECT else "has pictures of" if leak.rows else "is"


def compared(held_out: HeldOut, kept: Sequence[Leak], pool: Collection[str]) -> dict[str, tuple[Finding, ...]]:
    """For the record of a run: digest of every held-out case with pictures -> what is `kept` of it in the pool."""
    kept = [leak for leak in kept if leak.pool in pool]
    return {
        digest: tuple(Finding(leak.verdict, leak.test, leak.how) for leak in kept if leak.test == "/".join(case))
        for case, digest in held_out.digests().items()
    }


def pool_pictures(catalog: Catalog, videos: Sequence[int], without: Collection[int] = ()) -> Pictures:
    """The hashed frames of these videos but for some catalog rows."""
    first, count = (to_numpy(catalog.videos.column(name)).astype(np.int64) for name in ("first_row", "rows"))
    names = [catalog.videos.column(name).to_pylist() for name in ("name", "source", "case_id")]
    chosen = np.array(sorted(videos), np.int64)
    rows = np.concatenate([np.arange(first[v], first[v] + count[v]) for v in chosen] or [np.zeros(0, np.int64)])
    hashes = catalog.quality(["dhash"])["dhash"][rows][:, None]
    video = np.repeat(np.arange(len(chosen)), count[chosen]) if len(chosen) else np.zeros(0, np.int64)
    found = Pictures(
        hashes,
        video.astype(np.int64),
        catalog.frames["time_s"][rows].astype(np.float64),
        tuple(names[0][v] for v in chosen),
        tuple((names[1][v], names[2][v]) for v in chosen),
        rows,
    )
    return found.only(~np.isin(rows, list(without))) if without else found


def show(case: Case) -> str:
    """`data set/case`."""
    return "/".join(case)


def _by_identity(catalog: Catalog, held_out: HeldOut, videos: Sequence[int]) -> list[Leak]:
    table = identities()
    wanted = {same: case for case in sorted(held_out.why) for same in table.same(case)}
    source, case_id = (catalog.videos.column(name).to_pylist() for name in ("source", "case_id"))
    leaks = []
    for pair in sorted({(source[v], case_id[v]) for v in videos}):
        own = table.identify(*pair)
        for test in sorted({wanted[same] for same in table.same(own) if same in wanted}):
            how = "the same case" if own == test else f"the same operation, as {show(own)} and {show(test)}"
            leaks.append(Leak(show(pair), show(test), held_out.why[test], Verdict.SEEN, how))
    return leaks


def _namesakes(
    catalog: Catalog, held_out: HeldOut, videos: Sequence[int], found: Collection[tuple[str, str]]
) -> Iterator[str]:
    """In words, which cases of the pool have the id of a held-out case and another source, or nearly id and source.

    Names that are known to be of different operations are none, nor are those that were found to be the same.
    """
    table = identities()
    by_id: dict[str, list[Case]] = {}
    for test in sorted(held_out.why):
        by_id.setdefault(_bare(test[1]), []).append(test)
    source, case_id = (catalog.videos.column(name).to_pylist() for name in ("source", "case_id"))
    pairs = [
        (own, test)
        for own in sorted({table.identify(source[v], case_id[v]) for v in videos})
        for test in by_id.get(_bare(own[1]), ())
        if own != test and (show(own), show(test)) not in found and not table.differ(own, test)
    ]
    if pairs:
        shown = ", ".join(f"{show(own)} and {show(test)}" for own, test in pairs[:SHOWN])
        more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        yield (
            f"{len(pairs)} case(s) of the pool are called as held-out ones, but of another source or with other zeros: "
            f"{shown}{more}. If they are the same, give them one source (videos.csv of the pool, the column `source` "
            "of frames.csv) and one id"
        )


def _bare(case: str) -> str:
    return re.sub(r"^0+(?=\d)", "", case.strip().lower())


def _by_content(
    catalog: Catalog, held_out: HeldOut, videos: Sequence[int], without: Collection[int] = ()
) -> tuple[list[Leak], tuple[str, ...]]:
    """The cases found by their pictures, and in words how many were compared."""
    if not len(held_out.pictures) or not videos:
        return [], ()
    from trocar.data.leak.content import compare  # faiss, which a run without a guard has no use for

    pool = pool_pictures(catalog, videos, without)
    comparison = compare(held_out.pictures, pool)
    return [_as_leak(copy, held_out, pool) for copy in comparison.copies], comparison.words()


def _as_leak(copy: Copy, held_out: HeldOut, pool: Pictures) -> Leak:
    test, name = held_out.pictures.cases[copy.query], held_out.pictures.names[copy.query]
    verdict, where = Verdict.SEEN, pool.names[copy.pool]
    if copy.rows:
        how = f"{len(copy.rows)} picture(s) of {where} are copies of {copy.frames} of {name}"
    elif copy.offset_s is None:
        verdict = Verdict.SUSPECT
        how = f"{copy.frames} picture(s) of {name} are in {where}, at no common offset in time"
    else:
        how = (
            f"{copy.frames} or more pictures of {name} from {copy.first_s:.0f} to {copy.last_s:.0f} s are in "
            f"{where}, {copy.offset_s:+.1f} s away"
        )
    pair = show(pool.cases[copy.pool]), show(test)
    return Leak(*pair, held_out.why[test], verdict, how, copy.frames, copy.rows)
