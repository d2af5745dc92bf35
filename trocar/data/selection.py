"""What a composition resolves to: which catalog rows, from which pools, in which proportions.

Memory grows with videos, not with frames: rows are kept as thinned arithmetic runs, never as a list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trocar.data.counter import I64


@dataclass(frozen=True)
class Runs:
    """Rows `start + stride * ((i * have) // take)` for i in 0..take-1, one entry per run (all int64[R]).

    `have` rows lie on the run's grid, `take` <= have of them are taken, evenly spread: `take == have` takes all.
    """

    start: I64
    stride: I64
    have: I64
    take: I64
    ends: I64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", np.cumsum(self.take))

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.ends.size else 0

    def rows(self, index: I64) -> I64:
        """int64[...] positions in 0..len-1 -> int64[...] catalog rows."""
        run = np.searchsorted(self.ends, index, side="right")
        local = index - (self.ends[run] - self.take[run])
        out: I64 = self.start[run] + self.stride[run] * ((local * self.have[run]) // self.take[run])
        return out

    @staticmethod
    def of_video(rows: I64) -> Runs:
        """Compress the sorted rows of one video into runs of its most usual stride."""
        if rows.size == 0:
            return EMPTY
        step = np.diff(rows)
        base = int(np.sort(step)[step.size // 2]) if step.size else 1
        begins = np.append(True, step != base)
        first = np.flatnonzero(begins)
        have = np.diff(np.append(first, rows.size)).astype(np.int64)
        return Runs(rows[first], np.full(first.size, base, np.int64), have, have)

    @staticmethod
    def concatenate(parts: Sequence[Runs]) -> Runs:
        """The runs of all parts, in order."""
        if not parts:
            return EMPTY
        return Runs(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("start", "stride", "have", "take")))

    def thinned(self, total: int) -> Runs:
        """Exactly `total` rows spread evenly over everything, or all of them if there are not more than that."""
        if total >= len(self):
            return self
        # Differences of a rounded cumulative sum: no run gets more than its rows, and no end of the data is favoured.
        reached = (self.ends * total) // len(self)
        take = np.diff(reached, prepend=0)
        kept = take > 0
        return Runs(self.start[kept], self.stride[kept], self.have[kept], take[kept])


EMPTY = Runs(*(np.zeros(0, np.int64) for _ in range(4)))


@dataclass(frozen=True)
class Pool:
    """A set of rows that is shuffled as one: a source, or all sources together under proportional weights."""

    name: str
    runs: Runs
    share: float

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class Selection:
    """The resolved composition. `share`s of the pools sum to 1; `source_rows` counts selected rows per
    source, `cases` are named source/case."""

    pools: tuple[Pool, ...]
    source_rows: Mapping[str, int]
    cases: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

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
    return digest.hexdigest()[:16]
