"""When each picture of a video is shown, so that labels find their pictures: read once from its packets, and kept.

Picture k is the k-th on display. Its time is what the file says, counted from the first picture; the frame rate that
a container claims plays no part, for it is wrong in many files and means nothing where the rate varies. Pictures are
decoded by these numbers, and never another one in the place of one that cannot be decoded.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import av
import numpy as np
import numpy.typing as npt

from trocar.core.files import user_cache, writing
from trocar.core.progress import track
from trocar.data.media.delivered_files import Limits, RejectError, check_size
from trocar.data.media.every_picture import Damage, SampleTimes, Timeline, every_picture, is_counted
from trocar.data.media.frame_conversion import deinterlaced
from trocar.data.media.video_container import Irregular, VideoInfo, demux, describe, open_video
from trocar.data.media.video_decode import SparseDecode

FORMAT = 1
"""Raised when the same file gives another index: kept ones of another format are not used."""
KEPT_FROM = 32 << 20
"""Bytes of a video whose index is kept in the user's cache: smaller ones are read in no time."""
WATCHED_FROM = 256 << 20
"""Bytes of a video from which on a bar on the terminal shows how far its packets are read."""
Ints = npt.NDArray[np.int64]
_COMPARED = 50
"""Pictures from the start of a video that are decoded to see whether its packets tell the truth."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Display times of a video.

    `ticks` int64[n] of `tick` seconds each from the first picture, strictly rising; the last picture ends at `end`.
    `first` is the first picture's own timestamp. `usual` is the most frequent interval in ticks. `counted`: the file
    has no display times, its pictures are found by their number.
    """

    ticks: Ints
    tick: Fraction
    end: int
    first: int
    usual: int
    counted: bool

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds from the first picture, float64[n]."""
        return np.asarray(self.ticks * float(self.tick), dtype=np.float64)

    @property
    def end_s(self) -> float:
        """Seconds from the beginning of the first picture to the end of the last."""
        return float(self.end * self.tick)

    @property
    def fps(self) -> float:
        """Pictures per second of the whole video."""
        return round(len(self) / self.end_s, 3)

    @property
    def skipped(self) -> int:
        """Pictures that are not there by the intervals, where nine of ten are the usual one; 0 in a variable rate."""
        gaps = np.diff(self.ticks)
        if not len(gaps) or (np.abs(gaps - self.usual) <= 1).mean() < 0.9:
            return 0
        return int((np.round(gaps / self.usual) - 1).clip(0).sum())

    def shown(self, numbers: Sequence[int] | Ints, fps: float) -> Ints:
        """int64[m]: which picture is on display at the times k / `fps` for these k, by the rule of ingest
        (`SampleTimes`); the last one also after the end.
        """
        times = SampleTimes(fps, self.tick)
        due = np.array([times.due(int(k)) for k in numbers], dtype=np.int64)
        return np.searchsorted(self.ticks, due, side="right").astype(np.int64) - 1

    def at(self, seconds: npt.NDArray[np.float64]) -> Ints:
        """int64[m]: which picture is on display at these times, by the same rule."""
        ticks = float(self.tick)
        due = np.floor(seconds / ticks + min(1.0, 1e-3 / ticks) + 1e-3)  # a thousandth for the division
        return np.clip(np.searchsorted(self.ticks, due, side="right") - 1, 0, None).astype(np.int64)

    def ended(self, numbers: Sequence[int] | Ints, fps: float) -> npt.NDArray[np.bool_]:
        """bool[m]: whether the video is over at the times k / `fps`, as ingest has it."""
        times = SampleTimes(fps, self.tick)
        return np.array([times.due(int(k)) >= self.end for k in numbers], dtype=bool)


def read_index(path: Path) -> VideoIndex:
    """`make_index`, kept in this process and, for a large file, in the user's cache until the file changes."""
    try:
        status = path.stat()
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from None
    return _kept(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=128)
def _kept(path: Path, size: int, modified: int) -> VideoIndex:
    if size < KEPT_FROM:
        return make_index(path)
    name = hashlib.sha256(repr((FORMAT, str(path), size, modified)).encode("utf-8", "surrogateescape")).hexdigest()
    place = user_cache() / "video-times" / f"{name[:32]}.npz"
    try:
        with np.load(place, allow_pickle=False) as kept:
            numerator, denominator, end, first, usual, counted = (int(number) for number in kept["about"])
            ticks = np.cumsum(kept["steps"], dtype=np.int64)
            return VideoIndex(ticks, Fraction(numerator, denominator), end, first, usual, bool(counted))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        index = make_index(path)
    about = [*index.tick.as_integer_ratio(), index.end, index.first, index.usual, int(index.counted)]
    with suppress(OSError):  # a cache that can't be written is no reason not to go on
        place.parent.mkdir(parents=True, exist_ok=True)
        with writing(place) as file:
            np.savez_compressed(file, about=np.array(about, np.int64), steps=np.diff(index.ticks, prepend=0))
    return index


def make_index(path: Path, limits: Limits | None = None) -> VideoIndex:
    """Read all packets of a video, and its first pictures; all pictures where packets don't say when they are shown.

    Raises RejectError for a video that ingest rejects by what stands in its packets: with a hole, a missing end,
    incomplete packets, without display times. Damage inside of pictures shows when they are decoded.
    """
    limits = limits or Limits()
    with open_video(path) as (container, stream):
        info = describe(container, stream, limits)
        tick, counted = stream.time_base, is_counted(info, stream)
        damage = Damage()
        times, duration = _of_packets(container, stream, counted, damage)
    if counted and times is None:
        raise RejectError("no timestamps", "the stream does not say when its frames are decoded")
    if not counted and (times is None or not _agree(path, info, times)):
        times, duration = _of_pictures(path, info)
    if not times:
        raise RejectError("no frames", "the file opens, but not one picture could be decoded")
    timeline = Timeline(tick)
    for time in times:
        timeline.add(time)
    end = timeline.end(duration)
    _refuse_incomplete(timeline, end, info, limits, damage)
    ticks = np.array(times, dtype=np.int64) - times[0]
    return VideoIndex(ticks, tick, end, times[0], timeline.usual, counted)


def _of_packets(container: Any, stream: Any, counted: bool, damage: Damage) -> tuple[list[int] | None, int | None]:
    """Times in order of display (None where packets don't have them, or not one each), duration of the last picture."""
    times: list[tuple[int, int]] = []
    packets = demux(container, stream)
    if container.size >= WATCHED_FROM:
        packets = track(packets, "read the times of a video", stream.frames or None)
    for packet in packets:
        if not packet.size or packet.is_discard:
            continue
        if packet.is_corrupt:
            position = float(times[-1][0] * stream.time_base) if times else 0.0
            damage.add(1, f"incomplete packet at {position:.2f} s")
        time = packet.dts if counted else packet.pts
        if time is None:
            return None, None
        times.append((time, packet.duration or 0))
    times.sort()
    if any(one[0] == other[0] for one, other in pairwise(times)):
        return None, None
    return [time for time, _ in times], times[-1][1] if times else None


def _agree(path: Path, info: VideoInfo, times: Sequence[int]) -> bool:
    """Whether the first pictures come out of the decoder at these times: fields of one frame may be packets of their
    own, and some pictures are never shown.
    """
    damage = Damage()
    with open_video(path) as (container, stream):
        pictures = every_picture(stream, demux(container, stream), info, damage)
        first = [pts for pts, _ in islice(pictures, _COMPARED)]
    return damage.frames > 0 or first == list(times[: len(first)])


def _of_pictures(path: Path, info: VideoInfo) -> tuple[list[int], int | None]:
    times: list[int] = []
    duration, damage = None, Damage()
    with open_video(path) as (container, stream):
        for pts, frame in every_picture(stream, demux(container, stream), info, damage):
            if damage.frames:
                raise RejectError("damaged", damage.explain(accepting=False))
            if times and pts <= times[-1]:
                raise RejectError(
                    "no timestamps", f"two pictures at {float(pts * stream.time_base):.2f} s, or time runs backwards"
                )
            times.append(pts)
            duration = frame.duration
    return times, duration


def _refuse_incomplete(timeline: Timeline, end: int, info: VideoInfo, limits: Limits, damage: Damage) -> None:
    if timeline.last * timeline.tick > limits.max_hours * 3600:
        raise RejectError("too long", f"over {limits.max_hours} h")
    if (hole := timeline.hole()) is not None:
        damage.add(hole.frames, hole.where)
    found = damage.explain(accepting=False)
    if (missing := timeline.missing_end(info, end)) is not None:
        raise RejectError("truncated", missing.where + (f"; {found}" if damage.frames else ""))
    if damage.frames:
        raise RejectError("damaged", found)


def numbered_pictures(
    path: Path, index: VideoIndex, wanted: Collection[int], threads: int = 1, limits: Limits | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(k, frame still in its coded format) for each k of `wanted`, rising; interlaced ones are deinterlaced.

    Only what these are predicted from is decoded, where the packets tell. Raises RejectError as soon as a picture is
    damaged, does not come out of the decoder, or is not the one that `index` (of this very file) has at its time.
    """
    reader = _Reader(path, index, frozenset(wanted), threads, limits or Limits())
    given = 0
    try:
        for item in reader.sparse():
            given += 1
            yield item
        return
    except (Irregular, RejectError):
        pass  # only a decode of every picture can say what is wrong, and it gives the same ones up to here
    yield from itertools.islice(reader.every(), given, None)


class _Reader:
    def __init__(self, path: Path, index: VideoIndex, wanted: frozenset[int], threads: int, limits: Limits) -> None:
        if wanted and not 0 <= min(wanted) <= max(wanted) < len(index):
            raise RejectError("no such picture", f"{len(index)} pictures, picture {max(wanted)} is asked for")
        self.path, self.index, self.wanted, self.threads, self.limits = path, index, wanted, threads, limits
        self.number = {int(index.ticks[k]): k for k in wanted}

    def within(self, begin: int, end: int) -> bool:
        """For the sparse decode: whether the picture that begins at this tick is asked for."""
        return begin in self.number

    def sparse(self) -> Iterator[tuple[int, av.VideoFrame]]:
        left = len(self.wanted)
        with open_video(self.path, self.threads) as (container, stream):
            info = describe(container, stream, self.limits)
            pictures = SparseDecode(stream, demux(container, stream), self, info.states_times).frames()
            while left:
                pts, frame = next(pictures, (None, None))
                if pts is None:
                    raise Irregular("a picture that is asked for was not shown")
                number = self.number.get(pts - self.index.first)
                if number is not None:
                    if frame is None:
                        raise Irregular("a picture that is asked for was not decoded")
                    yield number, frame
                    left -= 1

    def every(self) -> Iterator[tuple[int, av.VideoFrame]]:
        last = max(self.wanted, default=-1)
        with open_video(self.path, self.threads) as (container, stream):
            info = describe(container, stream, self.limits)
            before: av.VideoFrame | None = None
            shown: av.VideoFrame | None = None
            count = 0
            for count, frame in enumerate(self._checked(container, stream, info), start=1):
                if shown is not None and count - 2 in self.wanted:
                    yield count - 2, deinterlaced(before, shown, frame)
                if count - 2 >= last and not self.index.counted:
                    return
                before, shown = shown, frame
            if count < len(self.index):
                raise RejectError("damaged", f"only {count} of {len(self.index)} pictures could be decoded")
            if shown is not None and count - 1 in self.wanted:
                yield count - 1, deinterlaced(before, shown, None)

    def _checked(self, container: Any, stream: Any, info: VideoInfo) -> Iterator[av.VideoFrame]:
        """All pictures, each at the time that the index has for it."""
        damage, ticks = Damage(), self.index.ticks
        pictures = every_picture(stream, demux(container, stream), info, damage)
        for number, (pts, frame) in enumerate(pictures):
            if damage.frames:
                raise RejectError("damaged", damage.explain(accepting=False))
            if number >= len(ticks) or pts - self.index.first != ticks[number]:
                expected = float(ticks[min(number, len(ticks) - 1)] * self.index.tick)
                raise RejectError("damaged", f"the picture at {expected:.2f} s did not come out of the decoder")
            check_size(frame.width, frame.height, self.limits.max_pixels)
            yield frame
        if damage.frames:
            raise RejectError("damaged", damage.explain(accepting=False))
