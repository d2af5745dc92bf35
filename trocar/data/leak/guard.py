"""Keep held-out cases out of a pretraining pool: by published identity and by content, before anything is sampled."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trocar.config import AsWritten, Config
from trocar.data.catalog import Catalog, to_numpy
from trocar.data.leak.held_out import HeldOut
from trocar.data.leak.identities import Case, identities
from trocar.data.leak.pictures import Pictures
from trocar.data.leak.verdict import Finding, Verdict
from trocar.errors import ConfigError
from trocar.privacy import NO_MARKS, Marks

SHOWN = 12
Policy = Literal["exclude", "error", "allow"]


class Guarded(Config):
    """A labelled data set that models will be scored on; the fields are those of `trocar evaluate`."""

    data: Path
    layout: str | None = None
    split: str | None = None
    phases: tuple[AsWritten, ...] = ()
    private: Marks = NO_MARKS


class LeakGuard(Config):
    """Which cases must stay out of the pool, and what to do with those found in it.

    `against`: folders of labelled data (their test and validation cases, or all where no split is known), published
    data sets (`cholec80`, `cholec80/41-80`, `cholec80:40-40` for the test and validation cases of a published split),
    or text files with one `data set/case` a line.
    """

    against: list[str | Guarded] = []
    policy: Policy = "exclude"


@dataclass(frozen=True)
class Leak:
    """A case of the pool that is one of the held-out cases, or looks like one.

    `pool` is `source/case` of the catalog, `test` of the held-out data; `frames` counts different pictures found again,
    0 where names alone say so. `verdict` is SEEN, or SUSPECT for pictures without an order in time.
    """

    pool: str
    test: str
    tasks: tuple[str, ...]
    verdict: Verdict
    how: str
    frames: int = 0

    def as_json(self) -> dict[str, object]:
        """Values that JSON can hold."""
        return {**self.__dict__, "tasks": list(self.tasks), "verdict": self.verdict.value}


def find_leaks(catalog: Catalog, held_out: HeldOut, videos: Sequence[int]) -> list[Leak]:
    """The held-out cases among these videos of a catalog, one entry per pair of cases, by pool case."""
    found: dict[tuple[str, str], Leak] = {}
    for leak in (*_by_identity(catalog, held_out, videos), *_by_content(catalog, held_out, videos)):
        known = found.get((leak.pool, leak.test))
        if known is None or leak.verdict.rank > known.verdict.rank:
            found[leak.pool, leak.test] = leak
    return sorted(found.values(), key=lambda leak: (leak.pool, leak.test))


def refuse(leaks: Iterable[Leak]) -> None:
    """Raises ConfigError that names case, task and the ways out, if a case of the pool is a held-out one."""
    seen = [leak for leak in leaks if leak.verdict is not Verdict.SUSPECT]
    if not seen:
        return
    lines = [f"  {leak.pool} is {leak.test} ({'; '.join(leak.tasks)}): {leak.how}" for leak in seen[:SHOWN]]
    more = [f"  and {len(seen) - SHOWN} more"] if len(seen) > SHOWN else []
    raise ConfigError(
        "\n".join(
            [
                f"composition: the pool holds {len(seen)} held-out case(s)",
                *lines,
                *more,
                "set leak.policy: exclude to leave them out before sampling, exclude the cases or the source yourself, "
                "take the data out of leak.against if it is not scored, or set leak.policy: allow, which writes the "
                "verdict beside every number",
            ]
        )
    )


def describe(leaks: Sequence[Leak], policy: Policy) -> list[str]:
    """What was found and done, in lines."""
    if not leaks:
        return ["leak guard: no held-out case is in the pool"]
    seen = [leak for leak in leaks if leak.verdict is not Verdict.SUSPECT]
    suspects = [leak for leak in leaks if leak.verdict is Verdict.SUSPECT]
    done = "left out before sampling" if policy == "exclude" else "kept, by leak.policy: allow"
    lines = []
    if seen:
        cases = sorted({leak.pool for leak in seen})
        lines.append(f"leak guard: {len(cases)} case(s) {done}:")
        lines += [f"  {leak.pool} is {leak.test} ({'; '.join(leak.tasks)}): {leak.how}" for leak in seen]
    if suspects:
        lines.append("leak guard: suspect, kept in the pool (look at them yourself):")
        lines += [f"  {leak.pool} and {leak.test}: {leak.how}" for leak in suspects]
    return lines


def compared(held_out: HeldOut, leaks: Sequence[Leak], pool: Collection[str]) -> dict[str, tuple[Finding, ...]]:
    """For the record of a run: digest of every held-out case with pictures -> what was found of it here."""
    kept = [leak for leak in leaks if leak.pool in pool]
    return {
        digest: tuple(Finding(leak.verdict, leak.test, leak.how) for leak in kept if leak.test == "/".join(case))
        for case, digest in held_out.digests().items()
    }


def pool_pictures(catalog: Catalog, videos: Sequence[int]) -> Pictures:
    """The hashed frames of these videos."""
    first, count = (to_numpy(catalog.videos.column(name)).astype(np.int64) for name in ("first_row", "rows"))
    names = [catalog.videos.column(name).to_pylist() for name in ("name", "source", "case_id")]
    chosen = np.array(sorted(videos), np.int64)
    rows = np.concatenate([np.arange(first[v], first[v] + count[v]) for v in chosen] or [np.zeros(0, np.int64)])
    hashes = catalog.quality(["dhash"])["dhash"][rows][:, None]
    video = np.repeat(np.arange(len(chosen)), count[chosen]) if len(chosen) else np.zeros(0, np.int64)
    return Pictures(
        hashes,
        video.astype(np.int64),
        catalog.frames["time_s"][rows].astype(np.float64),
        tuple(names[0][v] for v in chosen),
        tuple((names[1][v], names[2][v]) for v in chosen),
    )


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


def _by_content(catalog: Catalog, held_out: HeldOut, videos: Sequence[int]) -> list[Leak]:
    if not len(held_out.pictures) or not videos:
        return []
    from trocar.data.leak.content import find_copies  # faiss, which a run without a guard has no use for

    pool = pool_pictures(catalog, videos)
    leaks = []
    for copy in find_copies(held_out.pictures, pool):
        test, name = held_out.pictures.cases[copy.query], held_out.pictures.names[copy.query]
        if copy.offset_s is None:
            verdict = Verdict.SUSPECT
            how = f"{copy.frames} picture(s) of {name} are in {pool.names[copy.pool]}, at no common offset in time"
        else:
            verdict = Verdict.SEEN
            how = (
                f"{copy.frames} or more pictures of {name} from {copy.first_s:.0f} to {copy.last_s:.0f} s are in "
                f"{pool.names[copy.pool]}, {copy.offset_s:+.1f} s away"
            )
        leaks.append(Leak(show(pool.cases[copy.pool]), show(test), held_out.why[test], verdict, how, copy.frames))
    return leaks
