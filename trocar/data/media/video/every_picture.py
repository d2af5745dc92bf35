"""Every picture of a video in order of display, decoded one after the other, with what goes wrong on the way.

AVI and ASF files store no display times. FFmpeg makes them up from the order of decoding, which is another one where
H.264 or HEVC has B-frames: time would run backwards, or (where some pictures are left out) pictures would come several
frames early without a word. The decoder itself gives all pictures in order of display, so here picture j has the j-th
of the file's times of decoding, which run at its frame rate. That holds as long as every packet gives one picture and
none is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from trocar.data.media.input_file import RejectError
from trocar.data.media.video.container import VideoInfo
from trocar.data.media.video.timeline import Timeline

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
