"""Decode a video at a true frame rate, by timestamps, and only what the pictures on display at those times are
predicted from.

The frame for time k / fps is the one on display at that time: the last frame whose timestamp, counted from the first
frame, is at most k / fps plus one tick of the stream's clock (at most 1 ms: containers that count in milliseconds
round up). k runs while k / fps is before the end of the last frame, so 32 s give 32 frames at 1 fps and 32.5 s give
33. Neither 29.97 fps nor a variable frame rate drifts, for nothing is counted in frames.

The containers of video files give the display time of every packet, so which pictures are wanted is known before
anything is decoded. A picture that is not wanted is decoded only if a wanted one may be predicted from it: H.264 and
HEVC mark pictures that nothing is predicted from, and points from which on nothing earlier is needed. What is decoded
goes through the same decoder in the same order as ever, so the pixels are those of a full decode.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import av

from trocar.data.media.delivered_files import Limits, RejectError, check_size
from trocar.data.media.every_picture import Damage, SampleTimes, Timeline, every_picture, note_on_times
from trocar.data.media.frame_conversion import deinterlaced
from trocar.data.media.video_container import (
    Irregular,
    Role,
    VideoInfo,
    demux,
    describe,
    is_intra_only,
    open_video,
    role_reader,
)

_REORDER = 32
"""Packets between a picture and the next one on display: twice the 16 pictures that a decoder may hold back."""
_MOST_PACKETS, _MOST_BYTES = 512, 16 << 20


class Wanted(Protocol):
    """Which pictures are asked for, as `SampleTimes` says it."""

    def within(self, begin: int, end: int) -> bool:
        """Whether the picture on display from tick `begin` until before `end`, counted from the first, is one."""
        ...


Shown: TypeAlias = "tuple[int, av.VideoFrame | None]"


@dataclass(slots=True)
class _Item:
    packet: Any
    role: Role
    shown: bool
    sent: bool = True

    @property
    def pts(self) -> int:
        return int(self.packet.pts)


@dataclass(slots=True)
class _PacketGroup:
    """Packets from a restart to before the next; one that grows too large is `closed` by nothing and goes on."""

    items: list[_Item] = field(default_factory=list)
    size: int = 0
    closed: bool = True

    def add(self, item: _Item) -> None:
        self.items.append(item)
        self.size += item.packet.size

    @property
    def full(self) -> bool:
        return len(self.items) >= _MOST_PACKETS or self.size >= _MOST_BYTES

    def times(self) -> list[int]:
        return [item.pts for item in self.items if item.shown]


class SparseDecode:
    """One walk over `packets` of `stream`: the timestamps of all pictures and those frames that are wanted.

    Raises Irregular as soon as anything is not exactly as the packets announce: a picture that doesn't come or
    is damaged, interlaced pictures, missing or repeated timestamps. Then the whole must be decoded.
    """

    def __init__(self, stream: Any, packets: Iterator[Any], times: Wanted, states_times: bool = True) -> None:
        self._context = stream.codec_context
        self._packets = packets
        self._times = times
        self._first: int | None = None
        self._earlier: list[int] = []
        self._due: list[tuple[int, bool]] = []
        self._fed = False
        reader = role_reader(self._context.codec.canonical_name, self._context.extradata)
        if reader is None:
            raise Irregular(f"{self._context.name} pictures don't say what they are needed for")
        if not states_times and not is_intra_only(self._context.codec.canonical_name):
            raise Irregular("nobody knows when a picture is shown before it is decoded")
        self._role: Callable[[memoryview], Role] = reader

    def frames(self) -> Iterator[Shown]:
        """(timestamp in ticks, frame or None if it was not decoded) of all pictures in order of display."""
        for group, later in _with_later(self._groups()):
            cut = self._choose(group, later)
            for item in group.items:
                if item.shown:
                    heapq.heappush(self._due, (item.pts, item.sent))
            for item in group.items:
                if item.sent:
                    self._fed = True
                    yield from self._settle(self._decode(item.packet))
            if cut:
                yield from self._drain()
        yield from self._drain()

    def _groups(self) -> Iterator[_PacketGroup]:
        group = _PacketGroup()
        for packet in self._packets:
            if packet.size == 0 and packet.pts is None:  # the demuxer's sign that this was all
                break
            if packet.pts is None or packet.is_corrupt:
                raise Irregular("a packet without a timestamp, or an incomplete one")
            item = _Item(packet, self._role(memoryview(packet)), not packet.is_discard)
            if group.items and (group.full or item.role is Role.RESTART):
                group.closed = item.role is Role.RESTART
                yield group
                group = _PacketGroup()
            group.add(item)
        if group.items:
            yield group

    def _choose(self, group: _PacketGroup, later: list[int]) -> bool:
        """Set `sent` of each item; True if references at the end are left out, so nothing can follow them."""
        own = group.times()
        if self._first is None:
            if group.items[0].role is not Role.RESTART:
                raise Irregular("the stream begins in the middle")
            self._first = min(own, default=None)
        times = sorted(self._earlier + own + later)
        follows = dict(pairwise(times))
        if len(follows) < len(times) - 1 or (own and min(own) < (self._first or 0)):
            raise Irregular("timestamps repeat or run backwards")
        self._earlier = (self._earlier + own)[-2 * _REORDER :]
        wanted = [item.shown and self._wanted(item.pts, follows.get(item.pts)) for item in group.items]
        end = len(wanted)
        while group.closed and end and not wanted[end - 1]:
            end -= 1
        cut = False
        for i, item in enumerate(group.items):
            item.sent = wanted[i] or (i < end and item.role is not Role.DISPOSABLE)
            cut |= i >= end and item.role is not Role.DISPOSABLE
        return cut

    def _wanted(self, pts: int, following: int | None) -> bool:
        if following is None:  # the last picture of all says how long it lasts
            return True
        first = self._first or 0
        return self._times.within(pts - first, following - first)

    def _decode(self, packet: Any) -> list[av.VideoFrame]:
        try:
            return list(self._context.decode(packet))
        except av.FFmpegError as error:
            raise Irregular(str(error)) from None

    def _drain(self) -> Iterator[Shown]:
        """Have everything out of the decoder, which then can only go on at a restart."""
        if self._fed:
            yield from self._settle(self._decode(None))
            self._context.flush_buffers()
            self._fed = False
        yield from self._before(None)

    def _settle(self, frames: list[av.VideoFrame]) -> Iterator[Shown]:
        for frame in frames:
            if frame.is_corrupt or frame.interlaced_frame or frame.pts is None:
                raise Irregular("a damaged or interlaced picture")
            yield from self._before(frame.pts)
            if not self._due or heapq.heappop(self._due) != (frame.pts, True):
                raise Irregular("a picture that no packet announced")
            yield frame.pts, frame

    def _before(self, pts: int | None) -> Iterator[Shown]:
        while self._due and (pts is None or self._due[0][0] < pts):
            time, sent = heapq.heappop(self._due)
            if sent:
                raise Irregular("a picture did not come out of the decoder")
            yield time, None


def _with_later(groups: Iterator[_PacketGroup]) -> Iterator[tuple[_PacketGroup, list[int]]]:
    """Each group with the timestamps of the packets behind it: _REORDER of them, fewer at the end."""
    held: deque[_PacketGroup] = deque()
    for group in groups:
        held.append(group)
        while len(held) > 1 and sum(len(g.items) for g in islice(held, 1, None)) >= _REORDER:
            yield held.popleft(), [pts for g in held for pts in g.times()]
    while held:
        yield held.popleft(), [pts for g in held for pts in g.times()]


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
