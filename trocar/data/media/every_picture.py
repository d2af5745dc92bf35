"""Every picture of a video in order of display, decoded one after the other, with what goes wrong on the way.

AVI and ASF files store no display times. FFmpeg makes them up from the order of decoding, which is another one where
H.264 or HEVC has B-frames: time would run backwards, or (where some pictures are left out) pictures would come
several frames early without a word. The decoder itself gives all pictures in order of display, so here picture j has
the j-th of the file's times of decoding, which run at its frame rate. That holds as long as every packet gives one
picture and none is left out.

What the display times of the pictures say of a video: its usual interval, a hole in the middle, a missing end. The
times at which a video is looked at are whole ticks of its clock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av

from trocar.data.media.delivered_files import RejectError
from trocar.data.media.video_container import VideoInfo


class SampleTimes:
    """k / fps for k = 0, 1, ..., counted in ticks (of `tick` seconds) from the first picture.

    Time k reaches one tick further, at most 1 ms: containers that count in milliseconds round up. The picture
    on display at time k is the last one whose timestamp is at most `due(k)`.
    """

    def __init__(self, fps: float, tick: Fraction) -> None:
        step = 1 / (Fraction(fps).limit_denominator(100_000) * tick)
        tolerance = min(Fraction(1), Fraction(1, 1000) / tick)
        # Whole numbers: this is asked for every picture of a video, and a Fraction costs as much as demuxing it.
        self._step = step.numerator * tolerance.denominator
        self._tolerance = tolerance.numerator * step.denominator
        self._scale = step.denominator * tolerance.denominator

    def due(self, k: int) -> int:
        """The last tick at which a picture may begin that is the one of time k."""
        return (k * self._step + self._tolerance) // self._scale

    def within(self, begin: int, end: int) -> bool:
        """Whether a picture displayed from tick `begin` until before tick `end` is on display at some time k."""
        k = max(0, -((self._tolerance - begin * self._scale) // self._step))
        return begin <= self.due(k) < end


@dataclass(frozen=True)
class Missing:
    """A number of pictures that are not there, and where."""

    frames: int
    where: str


@dataclass
class Timeline:
    """Display times of pictures in ticks (of `tick` seconds), in the order in which they are shown."""

    tick: Fraction
    first: int | None = None
    last: int = 0
    """Ticks from the first picture to the latest."""
    gaps: Counter[int] = field(default_factory=Counter)
    _largest: tuple[int, int] = (0, 0)

    def add(self, pts: int) -> bool:
        """Note the next picture; False for one that is not later than the one before it, which does not count."""
        if self.first is None:
            self.first = pts
            return True
        now = pts - self.first
        if now <= self.last:
            return False
        gap = now - self.last
        self.gaps[gap] += 1
        self._largest = max(self._largest, (gap, self.last))
        self.last = now
        return True

    @property
    def usual(self) -> int:
        """The most frequent interval in ticks, 0 where there is but one picture."""
        return self.gaps.most_common(1)[0][0] if self.gaps else 0

    @property
    def is_constant(self) -> bool:
        """Whether nearly all intervals are the usual one, give or take the rounding of the stream's clock."""
        usual, gaps = self.usual, self.gaps
        return usual > 0 and gaps[usual] + gaps[usual - 1] + gaps[usual + 1] >= 0.98 * sum(gaps.values())

    def end(self, duration: int | None) -> int:
        """Ticks from the first picture to the end of the last one, which lasts `duration` ticks as its frame says.

        In a constant frame rate it lasts as long as the others, whatever the container claims.
        """
        return self.last + (self.usual if self.is_constant else duration or self.usual or 1)

    def hole(self) -> Missing | None:
        """One hole in an otherwise constant frame rate is lost data; in a variable one, a picture that stood still."""
        width, start = self._largest
        if not (self.is_constant and width * self.tick > 1 and width > 10 * self.usual):
            return None
        seconds = float(start * self.tick)
        where = f"no frames from {seconds:.2f} s to {seconds + float(width * self.tick):.2f} s"
        return Missing(width // self.usual, where)

    def missing_end(self, info: VideoInfo, end: int) -> Missing | None:
        """What is missing of the duration that the container claims, where the pictures end at tick `end`.

        Raises RejectError for an AVI that lacks pictures: they may be missing anywhere, and all later ones are then
        taken too early.
        """
        if info.duration_s is None:
            return None
        # Without a duration of the stream's own there is the container's: some count it from time 0, and sound may last
        # longer than the picture.
        frame_s, own = float((self.usual or 1) * self.tick), float(end * self.tick)
        slack = 2 * frame_s + (0.1 if info.exact_duration else 2.0)
        is_counted = info.is_counted and self.usual > 0
        if is_counted:
            slack = frame_s / 2
        reached = own if info.exact_duration else max(own, float(((self.first or 0) + end) * self.tick))
        missing = info.duration_s - reached
        if missing <= slack:
            return None
        frames = max(1, round(missing / frame_s))
        if is_counted:
            lost = f"{frames} pictures that the file should have are not in it"
            raise RejectError("damaged", f"{lost}, and {info.container} files do not say where they are missing")
        return Missing(frames, f"ends at {own:.2f} s of {info.duration_s:.2f} s")


_REORDERED = frozenset({"h264", "hevc"})
"""Codecs of whose pictures FFmpeg does not know the order before they are decoded."""


@dataclass
class Damage:
    """What went wrong in a decode: the count of damaged or missing frames, and the first place in words."""

    frames: int = 0
    first: str = ""

    def add(self, frames: int, where: str) -> None:
        """Count them."""
        self.frames += frames
        self.first = self.first or where

    def explain(self, accepting: bool = True) -> str:
        """In words, for the error; with `accepting` also how an ingest would take the video all the same."""
        found = f"{self.frames} damaged or missing frames, first: {self.first}"
        return f"{found}; --max-damaged {self.frames} would accept it" if accepting else found


def every_picture(
    stream: Any, packets: Iterator[Any], info: VideoInfo, damage: Damage
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(display time in ticks of the stream, frame) of all pictures; `damage` counts what went wrong.

    Raises RejectError where no display times can be had.
    """
    pictures = _decoded(stream, packets, damage)
    if is_counted(info, stream):
        return _counted(pictures, info, stream.codec_context)
    return _timed(pictures, info)


def is_counted(info: VideoInfo, stream: Any) -> bool:
    """Whether pictures have the times of decoding in order of display, for want of display times."""
    return not info.states_times and stream.codec_context.codec.canonical_name in _REORDERED


def note_on_times(info: VideoInfo, timeline: Timeline) -> list[str]:
    """What to tell of a file that does not say when its pictures are shown."""
    if info.states_times or not timeline.usual:
        return []
    rate = float(1 / (timeline.usual * timeline.tick))
    return [f"{info.container} files have no display times: pictures were counted, at {rate:g} frames per second"]


def _decoded(stream: Any, packets: Iterator[Any], damage: Damage) -> Iterator[tuple[Any, list[av.VideoFrame]]]:
    """(packet, pictures that came out after it). Errors before the first good frame don't count as damage: broadcasts
    start mid-stream.
    """
    started, position = False, 0.0
    for packet in packets:
        if packet.is_corrupt and started:
            damage.add(1, f"incomplete packet at {position:.2f} s")
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if started:
                damage.add(1, f"{error.strerror or error} at {position:.2f} s")
            yield packet, []
            continue
        for frame in frames:
            if frame.is_corrupt and started:
                damage.add(1, f"damaged picture at {frame.time or position:.2f} s")
            started, position = True, frame.time or position
        yield packet, frames


def _timed(pictures: Iterator[tuple[Any, list[av.VideoFrame]]], info: VideoInfo) -> Iterator[tuple[int, av.VideoFrame]]:
    last: int | None = None
    for _, frames in pictures:
        for frame in frames:
            if frame.pts is None:
                raise RejectError("no timestamps", "the stream does not say when its frames are shown")
            if last is not None and frame.pts < last and not info.states_times:
                raise RejectError("no timestamps", f"{_UNKNOWN_ORDER.format(info.container)}; {_CONVERT}")
            last = frame.pts
            yield frame.pts, frame


def _counted(
    pictures: Iterator[tuple[Any, list[av.VideoFrame]]], info: VideoInfo, context: Any
) -> Iterator[tuple[int, av.VideoFrame]]:
    waiting: deque[int] = deque()
    steps: set[int] = set()
    count, latest = 0, None
    for packet, frames in pictures:
        if packet.size:
            if packet.dts is None or (latest is not None and packet.dts <= latest):
                raise RejectError("no timestamps", "the stream does not say when its frames are decoded")
            if latest is not None:
                steps.add(packet.dts - latest)
            latest = packet.dts
            waiting.append(latest)
            count += 1
        for frame in frames:
            if not waiting:
                raise RejectError("no timestamps", f"more pictures than packets; {_CONVERT}")
            frame.pts = waiting.popleft()
            yield frame.pts, frame
    # No number of damaged frames makes the rest acceptable: nobody knows where the others belong.
    if waiting:
        lost = f"{len(waiting)} of {count} pictures did not come out of the decoder"
        raise RejectError("damaged", f"{lost}, and {info.container} files do not say when the others are shown")
    if context.has_b_frames and steps and max(steps) >= 2 * min(steps):
        left_out = f"{info.container} files do not say when their pictures are shown, and this one leaves some out"
        raise RejectError("no timestamps", f"{left_out}; {_CONVERT}")


_UNKNOWN_ORDER = "{} files do not say when their pictures are shown, and the decoder gives these in another order"
_CONVERT = "convert the file to MP4 first"
