"""Decode a video at a true frame rate, by timestamps.

The frame for time k / fps is the one on display at that time: the last frame whose timestamp, counted from
the first frame, is at most k / fps plus one tick of the stream's clock (at most 1 ms: containers that count
in milliseconds round up). k runs while k / fps is before the end of the last frame, so 32 s give 32 frames
at 1 fps and 32.5 s give 33. Neither 29.97 fps nor a variable frame rate drifts, for nothing is counted in
frames.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from trocar.data.media.packet_roles import Irregular
from trocar.data.media.refusal import Limits, RejectError, check_size
from trocar.data.media.sample_times import SampleTimes
from trocar.data.media.sparse_decode import Shown, SparseDecode
from trocar.data.media.video_container import VideoInfo, demux, describe, open_video


@dataclass
class Damage:
    """What went wrong in a decode: the count of damaged or missing frames, and the first place in words."""

    frames: int = 0
    first: str = ""

    def add(self, frames: int, where: str) -> None:
        self.frames += frames
        self.first = self.first or where


@dataclass
class Decoder:
    """One pass over a video. `frames()` can be walked once; `duration_s` and `damage` are complete after it,
    `pixel_aspect` (width by height of a coded pixel) from its first frame on."""

    path: Path
    fps: float
    limits: Limits
    threads: int = 1
    duration_s: float = 0.0
    pixel_aspect: Fraction = Fraction(1)
    damage: Damage = field(default_factory=Damage)

    def frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(time in seconds, frame still in its coded format) for every k / fps.

        Raises RejectError for a video that is damaged beyond `max_damaged`, too large, too long or without
        a picture; damage is known for certain only at the end, so nothing may be published before the walk
        is over.
        """
        given = 0
        try:
            for item in self._walk(sparse=True):
                given += 1
                yield item
            return
        except (Irregular, RejectError):
            # Only a decode of every picture can say what is wrong, and it gives the same frames up to here.
            self.damage, self.duration_s = Damage(), 0.0
        yield from itertools.islice(self._walk(sparse=False), given, None)

    def _walk(self, sparse: bool) -> Iterator[tuple[float, av.VideoFrame]]:
        with open_video(self.path, self.threads) as (container, stream):
            info = describe(container, stream, self.limits)
            self.pixel_aspect = info.pixel_aspect
            times = SampleTimes(self.fps, stream.time_base)
            packets = demux(container, stream)
            shown = SparseDecode(stream, packets, times).frames() if sparse else self._every(packets)
            yield from self._sample(shown, times, stream.time_base, info)

    def _sample(
        self, pictures: Iterator[Shown], times: SampleTimes, tick: Fraction, info: VideoInfo
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        limit = int(self.limits.max_hours * 3600 / tick)
        first: int | None = None
        last, k, due = 0, 0, times.due(0)
        shown: av.VideoFrame | None = None
        gaps: Counter[int] = Counter()
        largest = (0, 0)
        for pts, frame in pictures:
            if first is None:
                first = pts
            else:
                now = pts - first
                if now <= last:
                    self.damage.add(int(now < last), f"time runs backwards at {float(last * tick):.2f} s")
                    continue
                gaps[now - last] += 1
                largest = max(largest, (now - last, last))
                if now > limit:
                    raise RejectError("too long", f"over {self.limits.max_hours} h, the limit of --max-hours")
                while due < now:
                    yield k / self.fps, _decoded(shown)
                    k += 1
                    due = times.due(k)
                last = now
            if frame is not None:
                check_size(frame.width, frame.height, self.limits.max_pixels)
            shown = frame
        if first is None:
            raise RejectError("no frames", "the file opens, but not one picture could be decoded")
        usual = gaps.most_common(1)[0][0] if gaps else 0
        # In a constant frame rate the last frame lasts as long as the others, whatever the container claims.
        end = last + (usual if _is_constant(gaps, usual) else _decoded(shown).duration or usual or 1)
        while times.due(k) < end:
            yield k / self.fps, _decoded(shown)
            k += 1
        self.duration_s = float(end * tick)
        self._check_gap(gaps, largest, usual, tick)
        self._check_end(info, float((first + end) * tick), float((usual or 1) * tick))
        if self.damage.frames > self.limits.max_damaged:
            raise RejectError("damaged", self._explain())

    def _every(self, packets: Iterator[Any]) -> Iterator[Shown]:
        """All frames in order of display. Errors before the first good frame don't count: broadcasts start
        mid-stream.
        """
        started, position = False, 0.0
        for packet in packets:
            if packet.is_corrupt and started:
                self.damage.add(1, f"incomplete packet at {position:.2f} s")
            try:
                decoded = packet.decode()
            except av.FFmpegError as error:
                if started:
                    self.damage.add(1, f"{error.strerror or error} at {position:.2f} s")
                continue
            for frame in decoded:
                if frame.is_corrupt and started:
                    self.damage.add(1, f"damaged picture at {frame.time or position:.2f} s")
                if frame.pts is None:
                    raise RejectError("no timestamps", "the stream does not say when its frames are shown")
                started, position = True, frame.time or position
                yield frame.pts, frame

    def _check_gap(self, gaps: Counter[int], largest: tuple[int, int], usual: int, tick: Fraction) -> None:
        # One hole in an otherwise constant frame rate is lost data; in a variable one, it is a picture that
        # stood still.
        width, start = largest
        if _is_constant(gaps, usual) and width * tick > 1 and width > 10 * usual:
            seconds = float(start * tick)
            self.damage.add(width // usual, f"no frames from {seconds:.2f} s to {seconds + float(width * tick):.2f} s")

    def _check_end(self, info: VideoInfo, end_s: float, frame_s: float) -> None:
        if info.duration_s is None:
            return
        # Without a duration of the stream's own there is the container's: some count it from time 0, and sound may last
        # longer than the picture.
        slack = 2 * frame_s + (0.1 if info.exact_duration else 2.0)
        missing = info.duration_s - (self.duration_s if info.exact_duration else max(self.duration_s, end_s))
        if missing > slack:
            where = f"ends at {self.duration_s:.2f} s of {info.duration_s:.2f} s"
            if self.limits.max_damaged == 0:
                raise RejectError("truncated", where + (f"; {self._explain()}" if self.damage.frames else ""))
            self.damage.add(max(1, round(missing / frame_s)), where)

    def _explain(self) -> str:
        count = self.damage.frames
        return f"{count} damaged or missing frames, first: {self.damage.first}; --max-damaged {count} would accept it"


def _is_constant(gaps: Counter[int], usual: int) -> bool:
    """Whether nearly all intervals are the usual one, give or take the rounding of the stream's clock."""
    return usual > 0 and gaps[usual] + gaps[usual - 1] + gaps[usual + 1] >= 0.98 * sum(gaps.values())


def _decoded(frame: av.VideoFrame | None) -> av.VideoFrame:
    if frame is None:
        raise Irregular("a frame is wanted that was not decoded")
    return frame
