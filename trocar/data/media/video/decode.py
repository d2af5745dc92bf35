"""Decode a video at a true frame rate, by timestamps.

The frame for time k / fps is the one on display at that time: the last frame whose timestamp, counted from
the first frame, is at most k / fps plus one tick of the stream's clock (at most 1 ms: containers that count
in milliseconds round up). k runs while k / fps is before the end of the last frame, so 32 s give 32 frames
at 1 fps and 32.5 s give 33. Neither 29.97 fps nor a variable frame rate drifts, for nothing is counted in
frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from trocar.data.media.input_file import Limits, RejectError, check_size
from trocar.data.media.video.container import VideoInfo, demux, describe, open_video
from trocar.data.media.video.every_picture import Damage, every_picture, note_on_times
from trocar.data.media.video.frame_conversion import deinterlaced
from trocar.data.media.video.packet_roles import Irregular
from trocar.data.media.video.sparse_decode import Shown, SparseDecode
from trocar.data.media.video.timeline import SampleTimes, Timeline


@dataclass
class Decoder:
    """One pass over a video at `fps` frames per second. `frames()` can be walked once; `duration_s`, `damage` and
    `notes` (what a user should know of how it was read) are complete after it, `pixel_aspect` (width by height of a
    coded pixel) from its first frame on.
    """

    path: Path
    fps: float
    limits: Limits
    threads: int = 1
    duration_s: float = 0.0
    pixel_aspect: Fraction = Fraction(1)
    damage: Damage = field(default_factory=Damage)
    notes: tuple[str, ...] = ()
    _interlaced: bool = False

    def frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(time in seconds, frame still in its coded format) for every k / fps; interlaced ones are deinterlaced.

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
            self.damage, self._interlaced = Damage(), False
        yield from itertools.islice(self._walk(sparse=False), given, None)

    def _walk(self, sparse: bool) -> Iterator[tuple[float, av.VideoFrame]]:
        with open_video(self.path, self.threads) as (container, stream):
            info = describe(container, stream, self.limits)
            self.pixel_aspect = info.pixel_aspect
            times = SampleTimes(self.fps, stream.time_base)
            packets = demux(container, stream)
            shown: Iterator[Shown]
            if sparse:
                shown = SparseDecode(stream, packets, times, info.states_times).frames()
            else:
                shown = every_picture(stream, packets, info, self.damage)
            yield from self._sample(shown, times, stream.time_base, info)

    def _sample(
        self, pictures: Iterator[Shown], times: SampleTimes, tick: Fraction, info: VideoInfo
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        limit = int(self.limits.max_hours * 3600 / tick)
        timeline = Timeline(tick)
        k, due = 0, times.due(0)
        before: av.VideoFrame | None = None
        shown: av.VideoFrame | None = None
        for pts, frame in pictures:
            last = timeline.last
            if not timeline.add(pts):
                if pts - (timeline.first or 0) < last:
                    self.damage.add(1, f"time runs backwards at {float(last * tick):.2f} s")
                continue
            if timeline.last > limit:
                raise RejectError("too long", f"over {self.limits.max_hours} h, the limit of --max-hours")
            if due < timeline.last:
                whole = self._whole(before, shown, frame)
                while due < timeline.last:
                    yield k / self.fps, whole
                    k += 1
                    due = times.due(k)
            if frame is not None:
                check_size(frame.width, frame.height, self.limits.max_pixels)
            before, shown = shown, frame
        if timeline.first is None:
            raise RejectError("no frames", "the file opens, but not one picture could be decoded")
        end = timeline.end(shown.duration if shown is not None else None)
        if times.due(k) < end:
            whole = self._whole(before, shown, None)
            while times.due(k) < end:
                yield k / self.fps, whole
                k += 1
        self._finish(timeline, end, info)

    def _whole(
        self, before: av.VideoFrame | None, frame: av.VideoFrame | None, after: av.VideoFrame | None
    ) -> av.VideoFrame:
        if frame is None:
            raise Irregular("a frame is wanted that was not decoded")
        self._interlaced |= bool(frame.interlaced_frame)
        return deinterlaced(before, frame, after)

    def _finish(self, timeline: Timeline, end: int, info: VideoInfo) -> None:
        self.duration_s = float(end * timeline.tick)
        if (hole := timeline.hole()) is not None:
            self.damage.add(hole.frames, hole.where)
        if (missing := timeline.missing_end(info, end)) is not None:
            if self.limits.max_damaged == 0:
                found = f"; {self.damage.explain()}" if self.damage.frames else ""
                raise RejectError("truncated", missing.where + found)
            self.damage.add(missing.frames, missing.where)
        if self.damage.frames > self.limits.max_damaged:
            raise RejectError("damaged", self.damage.explain())
        said = note_on_times(info, timeline)
        if self._interlaced:
            said.append("interlaced frames were deinterlaced (bwdif)")
        self.notes = tuple(said)
