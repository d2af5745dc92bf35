"""What a composition resolves to: which catalog rows, from which pools, in which proportions.

Rows are kept as thinned arithmetic runs, never as a list: 48 bytes per run, one run for a video of which nothing is
left out. A video of which curation leaves out many single frames keeps a bit per frame instead (and the counts an
eighth of that), so memory stays below 9/64 byte per catalog row and 130 bytes per video, wherever flagged rows lie.

A set of positions as a bitmap that finds its k-th member: one bit per position, and 1/8 bit for the counts.

Rank and select with one level of counts, after Jacobson, "Space-efficient static trees and graphs" (FOCS 1989).

Mixture weights of sources, and the cap on how often a small source may be repeated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trocar.core.random import I64
from trocar.errors import ConfigError, nearest

U8: TypeAlias = npt.NDArray[np.uint8]

BLOCK = 64  # bytes between two counts

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_COUNT = _BITS.sum(axis=1, dtype=np.uint8)
_KTH = np.argsort(1 - _BITS.astype(np.int8), axis=1, kind="stable").astype(np.uint8)  # [byte, k] -> k-th set bit


def pack(members: npt.NDArray[np.bool_]) -> U8:
    """bool[n] -> uint8[whole blocks]: bit p % 8, least significant first, of byte p // 8 is members[p]."""
    data = np.zeros(-(-members.size // (8 * BLOCK)) * BLOCK, dtype=np.uint8)
    data[: -(-members.size // 8)] = np.packbits(members, bitorder="little")
    return data


@dataclass(frozen=True)
class Bitmap:
    """What `pack` made, or several of them joined. Raises ValueError when `data` is not whole blocks."""

    data: U8

    def __post_init__(self) -> None:
        if self.data.size % BLOCK:
            raise ValueError(f"a bitmap is whole blocks of {BLOCK} bytes, got {self.data.size} bytes")

    @cached_property
    def before(self) -> I64:
        """int64[blocks]: members in front of each block."""
        counts = _COUNT[self.data].reshape(-1, BLOCK).sum(axis=1, dtype=np.int64)
        before: I64 = np.cumsum(counts) - counts
        return before

    def select(self, rank: I64) -> I64:
        """int64[k] ranks in 0..members-1 -> int64[k] positions: rank 0 is the first member."""
        block = np.searchsorted(self.before, rank, side="right") - 1
        left = rank - self.before[block]
        # Members of the block up to and including each byte; the byte wanted is the first to exceed the rank.
        counts = _COUNT[self.data.reshape(-1, BLOCK)[block]]
        counted = np.cumsum(counts, axis=1, dtype=np.uint16)
        byte = np.argmax(counted > left[:, None], axis=1)
        each = np.arange(rank.size)
        left -= counted[each, byte].astype(np.int64) - counts[each, byte]
        at = block * BLOCK + byte
        position: I64 = at * 8 + _KTH[self.data[at], left]
        return position


def nominal_shares(sizes: Mapping[str, int], weights: str | Mapping[str, float]) -> dict[str, float]:
    """Share of the samples per source, summing to 1.

    `sqrt` weighs a source by the square root of its frames, `uniform` equally; a mapping gives weights per source.
    Raises ConfigError if the mapping misses a source, names one that isn't there, or holds a negative weight.
    """
    if isinstance(weights, str):
        raw = {s: math.sqrt(n) if weights == "sqrt" else 1.0 for s, n in sizes.items()}
    else:
        for name in weights:
            if name not in sizes:
                raise ConfigError(
                    f"weights: no selected source {name!r}{nearest(name, sizes)}; selected: {', '.join(sizes)}"
                )
        missing = [s for s in sizes if s not in weights]
        if missing or any(w < 0 for w in weights.values()) or not any(weights.values()):
            raise ConfigError(
                f"weights: every source needs a weight >= 0, one of them > 0; missing: {', '.join(missing)}"
            )
        raw = {s: float(weights[s]) for s in sizes}
    total = sum(raw.values())
    return {s: w / total for s, w in raw.items()}


def limit_repeats(
    sizes: Mapping[str, int], shares: Mapping[str, float], max_repeat: float, samples: int | None
) -> tuple[dict[str, float], list[str]]:
    """Cap each source at `max_repeat` epochs over a run of `samples`; the surplus goes to the others in proportion.

    Returns the new shares and a line per capped source that says where its surplus went. Raises ConfigError when
    all sources together can't fill the run.
    """
    if samples is None:
        raise ConfigError("max_repeat needs the length of the run (steps x batch), which is not known here")
    if max_repeat * sum(sizes[s] for s, w in shares.items() if w > 0) < samples:
        most = int(max_repeat * sum(sizes.values()))
        raise ConfigError(
            f"max_repeat {max_repeat:g}: the sources fill {most} samples at most, the run asks for {samples}"
        )
    cap = {s: max_repeat * n / samples for s, n in sizes.items()}
    result, capped = dict(shares), set[str]()
    while True:
        over = {s for s in result if s not in capped and result[s] > cap[s] + 1e-12}
        if not over:
            break
        capped |= over
        left = 1.0 - sum(cap[s] for s in capped)
        open_weight = sum(w for s, w in shares.items() if s not in capped)
        result = {s: cap[s] if s in capped else shares[s] / open_weight * left for s in shares}
    gained = [s for s in result if result[s] > shares[s] + 1e-12]
    notes = [
        f"{s}: {shares[s]:.3f} -> {result[s]:.3f} of the samples ({max_repeat:g} epochs at most); "
        f"the surplus goes to {', '.join(gained)}"
        for s in sorted(capped)
    ]
    return result, notes


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
class Exclusion:
    """What leaves a pool before anything is sampled: `cases` (`source/case`) as a whole, and the catalog rows `rows`
    int64[n] of others. `notes` say why, in lines.
    """

    cases: frozenset[str] = frozenset()
    rows: I64 = field(default_factory=_nowhere)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """The resolved composition. `share`s of the pools sum to 1; `source_rows` counts selected rows per
    source, `cases` are named source/case. `excluded` is what left the pool before sampling.
    """

    pools: tuple[Pool, ...]
    source_rows: Mapping[str, int]
    cases: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    excluded: Exclusion = field(default_factory=Exclusion)

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
