"""What a composition resolves to: which catalog rows, from which pools, in which proportions.

Rows are kept as thinned arithmetic runs, never as a list: 48 bytes per run, one run for a video of which nothing is
left out. A video of which curation leaves out many single frames keeps a bit per frame instead (and the counts an
eighth of that), so memory stays below 9/64 byte per catalog row and 130 bytes per video, wherever flagged rows lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from trocar.core.random import I64
from trocar.data.leak.guard import FoundLeaks, Guarding, Leak
from trocar.data.selection.bitmap import BLOCK, U8, Bitmap, pack

RUN_BYTES = 48


def _nowhere() -> I64:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class RowRuns:
    """Rows `start + stride * place((i * have) // take)` for i in 0..take-1, one entry per run (all int64[R]).

    `have` rows lie on the run's grid, `take` <= have of them are taken, evenly spread: `take == have` takes all.
    place(j) is j itself, or where `at` >= 0 the position of the j-th set bit of `mask` uint8[M] from byte `at` on: rows
    left out at scattered places cost a bit each instead of a run each.
    """

    start: I64
    stride: I64
    have: I64
    take: I64
    at: I64 = field(default_factory=_nowhere)
    mask: U8 = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False)
    ends: I64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", np.cumsum(self.take))
        if self.at.size != self.start.size:
            object.__setattr__(self, "at", np.full(self.start.size, -1, np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.ends.size else 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory that these runs take, the counts of the mask included."""
        runs = sum(getattr(self, name).nbytes for name in ("start", "stride", "have", "take", "at", "ends"))
        return int(runs + self.mask.nbytes + self.mask.nbytes // 8)

    def rows(self, index: I64) -> I64:
        """int64[k] positions in 0..len-1 -> int64[k] catalog rows."""
        run = np.searchsorted(self.ends, index, side="right")
        local = index - (self.ends[run] - self.take[run])
        place = (local * self.have[run]) // self.take[run]
        masked = self.at[run] >= 0
        if masked.any():
            at = self.at[run[masked]]
            place[masked] = self._bitmap.select(self._bitmap.before[at // BLOCK] + place[masked]) - 8 * at
        out: I64 = self.start[run] + self.stride[run] * place
        return out

    @cached_property
    def _bitmap(self) -> Bitmap:
        return Bitmap(self.mask)

    @staticmethod
    def of_video(rows: I64) -> RowRuns:
        """Compress the sorted rows of one video: runs of its most usual stride, or a mask where that is smaller."""
        if rows.size == 0:
            return EMPTY
        step = np.diff(rows)
        base = int(np.sort(step)[step.size // 2]) if step.size else 1
        first = np.flatnonzero(np.append(True, step != base))
        grid = int(np.gcd.reduce(step)) if first.size > 1 else base
        places = (rows - rows[0]) // grid
        if RUN_BYTES * (first.size - 1) > places[-1] // 8 + BLOCK:
            members = np.zeros(int(places[-1]) + 1, dtype=bool)
            members[places] = True
            # Not rows[:1]: a view would keep the rows of every video in memory until all videos are done.
            start, size = np.array([rows[0]], np.int64), np.array([rows.size], np.int64)
            return RowRuns(start, np.array([grid], np.int64), size, size, np.zeros(1, np.int64), pack(members))
        have = np.diff(np.append(first, rows.size)).astype(np.int64)
        return RowRuns(rows[first], np.full(first.size, base, np.int64), have, have)

    @staticmethod
    def concatenate(parts: Sequence[RowRuns]) -> RowRuns:
        """The runs of all parts, in order."""
        if len(parts) < 2:
            return parts[0] if parts else EMPTY
        shift = np.cumsum([0, *(p.mask.size for p in parts[:-1])])
        at = np.concatenate([np.where(p.at >= 0, p.at + s, -1) for p, s in zip(parts, shift, strict=True)])
        start, stride, have, take = (
            np.concatenate([getattr(p, f) for p in parts]) for f in ("start", "stride", "have", "take")
        )
        return RowRuns(start, stride, have, take, at, np.concatenate([p.mask for p in parts]))

    def thinned(self, total: int) -> RowRuns:
        """Exactly `total` rows spread evenly over everything, or all of them if there are not more than that."""
        if total >= len(self):
            return self
        # Differences of a rounded cumulative sum: no run gets more than its rows, and no end of the data is favoured.
        reached = (self.ends * total) // len(self)
        take = np.diff(reached, prepend=0)
        kept = take > 0
        return RowRuns(self.start[kept], self.stride[kept], self.have[kept], take[kept], self.at[kept], self.mask)


EMPTY = RowRuns(_nowhere(), _nowhere(), _nowhere(), _nowhere())


@dataclass(frozen=True)
class Pool:
    """A set of rows that is shuffled as one: a source, or all sources together under proportional weights."""

    name: str
    runs: RowRuns
    share: float

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class Selection:
    """The resolved composition. `share`s of the pools sum to 1; `source_rows` counts selected rows per
    source, `cases` are named source/case. `guarding` says which held-out cases and pictures the pool
    held, and which of them left it before sampling."""

    pools: tuple[Pool, ...]
    source_rows: Mapping[str, int]
    cases: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    guarding: Guarding = field(default_factory=lambda: Guarding(FoundLeaks()))

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """The held-out cases that were found in the pool, whatever became of them."""
        return self.guarding.found.leaks

    def __len__(self) -> int:
        return sum(len(pool) for pool in self.pools)


def hash_runs(videos: list[tuple[str, str]], pools: tuple[Pool, ...], first_rows: I64) -> str:
    """16 hex digits over video names, contents and rows *within* each video, so catalog growth changes nothing."""
    digest = hashlib.sha256()
    for name, content in videos:
        digest.update(f"{name}\x1f{content}\x1e".encode())
    for pool in pools:
        digest.update(f"{pool.name}\x1f{pool.share!r}\x1e".encode())
        video = np.searchsorted(first_rows, pool.runs.start, side="right") - 1
        local = pool.runs.start - first_rows[video]
        ordinal = np.unique(video, return_inverse=True)[1]
        order = np.stack([ordinal, local, pool.runs.stride, pool.runs.have, pool.runs.take])
        digest.update(np.ascontiguousarray(order, dtype="<i8").tobytes())
        if pool.runs.mask.size:
            digest.update(np.ascontiguousarray(pool.runs.at, dtype="<i8").tobytes())
            digest.update(pool.runs.mask.tobytes())
    return digest.hexdigest()[:16]
