"""The same video found again in a pool, by runs of matching frames at one constant time offset.

One frame that matches proves nothing: pictures of different patients differ in few bits now and then, and the more
often the larger the pool. Several *different* pictures at one offset are a copy. Every pair of hashes is compared:
faiss compares about 10^9 pairs a second and core, so a million pool frames against 10^5 test frames in six variants
take about ten minutes of one core, and no copy is lost to an approximate index. Limits that
`benchmarks/leak_threshold.py` measures: frames played at another speed have no constant offset, a mirrored or rotated
copy matches nothing, nor does one that lost more than a tenth of its border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from trocar.data.counter import I64
from trocar.data.leak.pictures import U8, Pictures, distance

RADIUS = 24
"""Bits in which frames of one copy may differ."""
RUN = 3
"""Different pictures at one offset that make a copy."""
OTHER_PICTURE = 16
"""Bits from which two frames of a run count as different pictures: a still scene or a menu counts once."""
ISOLATED_RADIUS = 12
"""Bits for pictures without an order in time: these are only suspect."""
COMMON = 32
"""A test frame that matches this many videos of a pool is a logo or a menu, and says nothing."""
SLACK_S = 0.6
"""Seconds by which the offsets of a run may differ: two grids of 1 fps may be half a second apart, and times round."""
ENOUGH = 50
"""Different pictures of one run beyond which nobody counts."""
QUERIES = 512

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Copy:
    """Frames of a test video found in a video of the pool.

    `query` and `pool` index the videos, `frames` counts different pictures, `offset_s` is the pool's time minus the
    test video's; None for isolated pictures without a common offset. `first_s`..`last_s` is where in the test video.
    """

    query: int
    pool: int
    frames: int
    offset_s: float | None
    first_s: float
    last_s: float


@dataclass(frozen=True)
class Rule:
    """The thresholds; the defaults are those that were set on measured negatives."""

    radius: int = RADIUS
    run: int = RUN
    isolated_radius: int = ISOLATED_RADIUS


def find_copies(
    queries: Pictures, pool: Pictures, rule: Rule | None = None, tick: Callable[[int], None] = lambda done: None
) -> list[Copy]:
    """Every (test video, pool video) with a run, and those with isolated pictures in common; the best run of each.

    Frames without structure are left out on both sides. `tick` is told the number of test frames compared.
    """
    rule = rule or Rule()
    queries, pool = queries.informative(), pool.informative()
    if not len(queries) or not len(pool):
        return []
    query, row, bits = _matches(queries, pool, rule.radius, tick)
    found: list[Copy] = []
    for chosen in _by_pair(queries.video[query], pool.video[row]):
        copy = _judge(queries, pool, query[chosen], row[chosen], bits[chosen], rule)
        if copy is not None:
            found.append(copy)
    return found


def _matches(
    queries: Pictures, pool: Pictures, radius: int, tick: Callable[[int], None]
) -> tuple[I64, I64, npt.NDArray[np.int32]]:
    """Positions in the queries, in the pool, and differing bits, of every pair within the radius, once per pair."""
    index = faiss.IndexBinaryFlat(256)
    index.add(np.ascontiguousarray(pool.hashes[:, 0]))
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))]
    for start in range(0, len(queries), QUERIES):
        block = queries.hashes[start : start + QUERIES]
        limits, bits, rows = index.range_search(np.ascontiguousarray(block.reshape(-1, 32)), radius + 1)
        at = np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))) // block.shape[1]
        parts.append(_usable(at + start, rows.astype(np.int64), bits.astype(np.int32), pool))
        tick(min(len(queries), start + QUERIES))
    query, row, bits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return query, row, bits


def _usable(
    query: I64, row: I64, bits: npt.NDArray[np.int32], pool: Pictures
) -> tuple[I64, I64, npt.NDArray[np.int32]]:
    """The best variant of each pair, without test frames that half of everything looks like."""
    order = np.lexsort((bits, row, query))
    query, row, bits = query[order], row[order], bits[order]
    first = np.ones(len(query), bool)
    first[1:] = (np.diff(query) != 0) | (np.diff(row) != 0)
    query, row, bits = query[first], row[first], bits[first]
    videos = np.unique(np.stack([query, pool.video[row]]), axis=1)[0]
    frames, counts = np.unique(videos, return_counts=True)
    kept = ~np.isin(query, frames[counts >= COMMON])
    return query[kept], row[kept], bits[kept]


def _by_pair(query_video: Ints, pool_video: Ints) -> Iterator[Ints]:
    """Positions of the matches of every (test video, pool video)."""
    order = np.lexsort((pool_video, query_video))
    changes = (np.diff(query_video[order]) != 0) | (np.diff(pool_video[order]) != 0)
    yield from (part for part in np.split(order, np.flatnonzero(changes) + 1) if len(part))


def _judge(
    queries: Pictures, pool: Pictures, query: I64, row: I64, bits: npt.NDArray[np.int32], rule: Rule
) -> Copy | None:
    pair = int(queries.video[query[0]]), int(pool.video[row[0]])
    times = queries.time_s[query]
    offsets = pool.time_s[row] - times
    best, where = 0, np.zeros(0, np.int64)
    for window in _windows(offsets, query, rule.run):
        count = different(queries.hashes[np.unique(query[window]), 0])
        if count > best:
            best, where = count, window
        if best >= ENOUGH:
            break
    if best >= rule.run:
        return Copy(*pair, best, float(np.median(offsets[where])), float(times[where].min()), float(times[where].max()))
    close = bits <= rule.isolated_radius
    count = different(queries.hashes[np.unique(query[close]), 0]) if close.any() else 0
    all_there_are = int(np.count_nonzero(queries.video == pair[0]))
    if count and count >= min(rule.run, all_there_are):
        return Copy(*pair, count, None, float(times[close].min()), float(times[close].max()))
    return None


def _windows(offsets: Floats, query: I64, least: int) -> Iterator[Ints]:
    """Sets of matches with offsets that differ by at most 2 x the slack, those with most test frames first.

    Offsets within the slack of each other are always together in one: windows are two bins wide, one bin apart.
    """
    bins = np.floor(offsets / SLACK_S).astype(np.int64)
    order = np.argsort(bins, kind="stable")
    filled = np.unique(bins)
    starts = np.searchsorted(bins[order], filled)
    ends = np.searchsorted(bins[order], filled + 2)
    windows = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    sizes = np.array([len(np.unique(query[window])) for window in windows])
    for at in np.argsort(-sizes, kind="stable"):
        if sizes[at] < least:
            return
        yield windows[at]


def different(hashes: U8) -> int:
    """How many different pictures are among uint8[n, 32] in time order, each told from all counted; ENOUGH at most."""
    counted = np.zeros((0, 32), np.uint8)
    for one in hashes:
        if not (distance(counted, one) < OTHER_PICTURE).any():
            counted = np.vstack([counted, one])
        if len(counted) >= ENOUGH:
            break
    return len(counted)
