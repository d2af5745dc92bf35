"""The same pictures found again in a pool: videos by runs of matching frames, isolated pictures one by one.

Of two videos one frame that matches proves nothing: there are many frames, and the more the larger the pool. Several
*different* pictures at one offset are a copy. Isolated pictures have no offset, and are fewer: there one match within
the radius is a copy; where one side is a video two are, or one of half the distance. Every pair of hashes is compared:
`hash_index` compares all of them, so no copy is lost to an approximate index. Limits that
`benchmarks/leak_threshold.py` measures: frames played at another speed have no constant offset, copies turned by a
quarter match nothing, nor do those that lost more than a tenth of their border.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trocar.core.hamming import HashIndex, hash_index
from trocar.core.random import I64
from trocar.data.ingest.quality import COPY_BITS, distance
from trocar.leakage.pictures import U8, Pictures

RADIUS = COPY_BITS
"""Bits in which frames of one copy may differ."""
RUN = 3
"""Different pictures at one offset that make a copy."""
OTHER_PICTURE = 16
"""Bits from which two frames of a run count as different pictures: a still scene or a menu counts once."""
ISOLATED_RADIUS = 12
"""Bits within which one picture of a video is an isolated one; between videos, without an offset, only suspect."""
COMMON = 32
"""A test frame that matches this many videos of a pool is a logo or a menu, and says nothing."""
SLACK_S = 0.6
"""Seconds by which the offsets of a run may differ: two grids of 1 fps may be half a second apart, and times round."""
ENOUGH = 50
"""Different pictures of one run beyond which nobody counts."""
QUERIES = 512
TAIL = 40
"""Bits up to which distances of different pictures are counted to tell what chance gives within the radius."""
SAMPLE = 256
"""Test frames whose distances are counted for that."""
FALL = 0.37
"""Logarithm of the fall of matches per bit, on frames of different patients (36 to 40 bits, docs/leaks.md)."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Copy:
    """Frames of a test video found in a video of the pool.

    `query` and `pool` index the videos, `frames` counts different pictures, `offset_s` is the pool's time minus the
    test video's; None for pictures without a common offset. `first_s`..`last_s` is where in the test video. `rows`: the
    pool's frames (`Pictures.rows`) that are copies, where single pictures are; else it is about the whole video.
    """

    query: int
    pool: int
    frames: int
    offset_s: float | None
    first_s: float
    last_s: float
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class PictureComparison:
    """All that was found, in how many pairs of pictures.

    `near` of these pairs are within the radius, `chance` is how many different pictures would give at most. `common`
    test frames were left out because so many videos of the pool show them.
    """

    copies: tuple[Copy, ...] = ()
    pairs: int = 0
    near: int = 0
    chance: float = 0.0
    common: int = 0

    def words(self) -> tuple[str, ...]:
        """What was compared, in lines."""
        if not self.pairs:
            return ()
        doubt = ", so some of these may be no copies" if self.chance >= 1 and self.near else ""
        near = f"{self.near:,} within {RADIUS} bits"
        by_chance = f"chance gives at most about {self.chance:.1g}{doubt}"
        lines = [f"{self.pairs:,} pairs of pictures compared, {near}; {by_chance}"]
        if self.common:
            lines.append(f"{self.common} test pictures that {COMMON} or more videos of the pool show say nothing")
        return tuple(lines)


@dataclass(frozen=True)
class Rule:
    """The thresholds; the defaults are those that were set on measured negatives."""

    radius: int = RADIUS
    run: int = RUN
    isolated_radius: int = ISOLATED_RADIUS


def find_copies(
    queries: Pictures, pool: Pictures, rule: Rule | None = None, tick: Callable[[int], None] = lambda done: None
) -> list[Copy]:
    """The copies of `compare`."""
    return list(compare(queries, pool, rule, tick).copies)


def compare(
    queries: Pictures,
    pool: Pictures,
    rule: Rule | None = None,
    tick: Callable[[int], None] = lambda done: None,
    *,
    other_cases: bool = False,
) -> PictureComparison:
    """Every (test video, pool video) with a run, the best of each, and those with single pictures in common.

    A video is a source of isolated pictures if it has fewer frames at different times than a run needs, or times that
    say nothing. Frames without structure are left out on both sides. `tick` is told the number of test frames compared.
    `other_cases`: pictures of one case are not compared with each other.
    """
    rule = rule or Rule()
    alone = queries.isolated(rule.run), pool.isolated(rule.run)
    queries, pool = queries.informative(), pool.informative()
    if not len(queries) or not len(pool):
        return PictureComparison()
    index = hash_index(pool.hashes[:, 0])
    query, row, bits = _matches(index, queries.hashes, rule.radius, tick)
    # A test frame that so many videos look like is a menu or a logo.
    videos = np.unique(np.stack([query, pool.video[row]]), axis=1)[0]
    frames, counts = np.unique(videos, return_counts=True)
    usable = ~np.isin(query, frames[counts >= COMMON])
    chance = _chance(index, queries, pool, query, row, rule.radius)
    pairs = len(queries) * len(pool)
    if other_cases:
        own = _numbers(queries, pool)
        usable &= own[0][queries.video[query]] != own[1][pool.video[row]]
        mine, theirs = own[0][queries.video], own[1][pool.video]
        pairs -= int(sum((mine == case).sum() * (theirs == case).sum() for case in np.intersect1d(mine, theirs)))
    common, near = int((counts >= COMMON).sum()), len(query)
    query, row, bits = query[usable], row[usable], bits[usable]
    found: list[Copy] = []
    for chosen in _by_pair(queries.video[query], pool.video[row]):
        one, other = queries.video[query[chosen[0]]], pool.video[row[chosen[0]]]
        matches = query[chosen], row[chosen], bits[chosen]
        copy = _video(queries, pool, *matches, rule)
        if (copy is None or copy.offset_s is None) and (alone[0][one] or alone[1][other]):
            copy = _pictures(queries, pool, *matches, rule, strict=not (alone[0][one] and alone[1][other]))
        if copy is not None:
            found.append(copy)
    return PictureComparison(tuple(found), pairs, near, chance, common)


def _numbers(queries: Pictures, pool: Pictures) -> tuple[I64, I64]:
    """The number of the case of each video on both sides."""
    number = {case: index for index, case in enumerate(dict.fromkeys((*queries.cases, *pool.cases)))}
    one, other = (np.array([number[case] for case in side.cases], np.int64) for side in (queries, pool))
    return one, other


def _matches(index: HashIndex, hashes: U8, radius: int, tick: Callable[[int], None]) -> tuple[I64, I64, Ints]:
    """Positions in the queries, in the pool, and differing bits, of every pair within the radius, once per pair."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for start in range(0, len(hashes), QUERIES):
        block = hashes[start : start + QUERIES]
        owner, chosen = _different_variants(block)
        found, rows, bits = index.within(chosen, radius)
        parts.append(_nearest(owner[found] + start, rows, bits))
        tick(min(len(hashes), start + QUERIES))
    query, row, bits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return query, row, bits


def _different_variants(block: U8) -> tuple[I64, U8]:
    """(frame int64[m], hash uint8[m, 32]): without a black surround half of the variants are the other half again."""
    keep = np.ones(block.shape[:2], bool)
    for later in range(1, block.shape[1]):
        keep[:, later] = (block[:, :later] != block[:, later : later + 1]).any(-1).all(-1)
    return np.nonzero(keep)[0], block[keep]


def _nearest(query: I64, row: I64, bits: Ints) -> tuple[I64, I64, Ints]:
    """The best variant of each pair."""
    order = np.lexsort((bits, row, query))
    query, row, bits = query[order], row[order], bits[order]
    first = np.ones(len(query), bool)
    first[1:] = (np.diff(query) != 0) | (np.diff(row) != 0)
    return query[first], row[first], bits[first]


def _chance(index: HashIndex, queries: Pictures, pool: Pictures, query: I64, row: I64, radius: int) -> float:
    """How many pairs of different pictures come within the radius, at most, by those that come nearly so.

    The number of pairs within b bits falls ever more steeply as b falls, so its logarithm drawn on as a straight line
    from the pairs of 34 to 40 bits is above it. Counted on some of the test frames, without pairs of videos that have a
    match: what looks alike there is no chance.
    """
    sample = np.unique(np.linspace(0, len(queries) - 1, min(len(queries), SAMPLE)).astype(np.int64))
    at, other, bits = _matches(index, queries.hashes[sample], TAIL, lambda done: None)
    videos = len(pool.names)
    alike = np.unique(queries.video[query] * videos + pool.video[row])
    apart = ~np.isin(queries.video[sample[at]] * videos + pool.video[other], alike)
    within = int(apart.sum())
    closer = int((apart & (bits <= TAIL - 6)).sum())
    fall = max(FALL, math.log(within / closer) / 6) if closer >= 10 else FALL
    # Of none seen, three could have been expected (95 %).
    return max(within, 3) * len(queries) / len(sample) * math.exp(-fall * (TAIL - radius))


def _by_pair(query_video: Ints, pool_video: Ints) -> Iterator[Ints]:
    """Positions of the matches of every (test video, pool video)."""
    order = np.lexsort((pool_video, query_video))
    changes = (np.diff(query_video[order]) != 0) | (np.diff(pool_video[order]) != 0)
    yield from (part for part in np.split(order, np.flatnonzero(changes) + 1) if len(part))


def _pictures(
    queries: Pictures, pool: Pictures, query: I64, row: I64, bits: Ints, rule: Rule, strict: bool
) -> Copy | None:
    """Isolated pictures on one side at least; `strict` where the other is a video."""
    if strict and len(query) < 2 and not (bits <= rule.isolated_radius).any():
        return None
    times = queries.time_s[query]
    rows = tuple(np.unique(pool.rows[row]).tolist())
    frames = different(queries.hashes[np.unique(query), 0])
    pair = int(queries.video[query[0]]), int(pool.video[row[0]])
    return Copy(*pair, frames, None, float(times.min()), float(times.max()), rows)


def _video(queries: Pictures, pool: Pictures, query: I64, row: I64, bits: Ints, rule: Rule) -> Copy | None:
    """Two videos: a run at one offset, or close pictures at none, which are only suspect."""
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
    if count >= rule.run:
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
