"""The held-out cases in a pool: by published identity and by content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from trocar.data.catalog.catalog import Catalog, to_numpy
from trocar.leakage.identities import Case, identities
from trocar.leakage.pictures import Pictures
from trocar.leakage.verdict import Verdict
from trocar.privacy.private_data import Private

if TYPE_CHECKING:
    from trocar.leakage.matching import Copy

SHOWN = 12


@dataclass(frozen=True)
class HeldOut:
    """Cases of the data that models are scored on: `why` says for each of them which data and tasks it belongs to.

    `pictures` are the hashed frames of those whose pictures are at hand; the others are known by name only. `private`:
    what of them must not be shown.
    """

    why: Mapping[Case, tuple[str, ...]] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=lambda: Pictures.join([]))
    private: Private = field(default_factory=Private)

    @property
    def cases(self) -> frozenset[Case]:
        """All of them."""
        return frozenset(self.why)

    def digests(self) -> dict[Case, str]:
        """16 hex digits over the hashed frames of each case with pictures: equal pictures, equal digits."""
        frames = self.pictures
        found: dict[Case, str] = {}
        for case in sorted(set(frames.cases)):
            videos = [i for i, of in enumerate(frames.cases) if of == case]
            rows = np.isin(frames.video, videos)
            found[case] = hashlib.sha256(np.ascontiguousarray(frames.hashes[rows]).tobytes()).hexdigest()[:16]
        return found

    @staticmethod
    def join(parts: Sequence[HeldOut]) -> HeldOut:
        """All of them together."""
        why: dict[Case, tuple[str, ...]] = {}
        for part in parts:
            for case, reasons in part.why.items():
                why[case] = tuple(dict.fromkeys((*why.get(case, ()), *reasons)))
        pictures = Pictures.join([part.pictures for part in parts])
        return HeldOut(why, pictures, Private.join(part.private for part in parts))


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
    from trocar.leakage.matching import compare  # faiss, which a run without a guard has no use for

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
