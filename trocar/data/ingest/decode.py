"""Decode a video at a true frame rate, by timestamps.

The frame for time k / fps is the one on display at that time: the last frame whose timestamp, counted from
the first frame, is at most k / fps plus one tick of the stream's clock (at most 1 ms: containers that count
in milliseconds round up). k runs while k / fps is before the end of the last frame, so 32 s give 32 frames
at 1 fps and 32.5 s give 33. Neither 29.97 fps nor a variable frame rate drifts, for nothing is counted in
frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from trocar.data.ingest.settings import IngestSettings, RejectError

# Playlists and concat scripts would make a file named .mp4 read other files or the network.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,mxf,ogg,mpegvideo",
}


@dataclass
class VideoInfo:
    """What the container says: coded size in pixels, `duration_s` (None where it doesn't say), the pixel
    aspect.
    """

    width: int
    height: int
    duration_s: float | None
    exact_duration: bool
    pixel_aspect: Fraction


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
    settings: IngestSettings
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
        with open_video(self.path, self.threads) as (container, stream):
            info = describe(container, stream, self.settings)
            self.pixel_aspect = info.pixel_aspect
            yield from self._sample(self._decode(container, stream), stream.time_base, info)

    def _sample(
        self, frames: Iterator[av.VideoFrame], tick: Fraction, info: VideoInfo
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        step = 1 / (Fraction(self.settings.fps).limit_denominator(100_000) * tick)
        tolerance = min(Fraction(1), Fraction(1, 1000) / tick)
        limit = self.settings.max_hours * 3600 / tick
        first: int | None = None
        last, k = 0, 0
        shown: av.VideoFrame | None = None
        gaps: Counter[int] = Counter()
        largest = (0, 0)
        for frame in frames:
            pts = int(frame.pts or 0)
            first = pts if first is None else first
            now = pts - first
            if shown is not None:
                if now <= last:
                    self.damage.add(int(now < last), f"time runs backwards at {float(last * tick):.2f} s")
                    continue
                gaps[now - last] += 1
                largest = max(largest, (now - last, last))
            if now > limit:
                raise RejectError("too long", f"over {self.settings.max_hours} h, the limit of --max-hours")
            while shown is not None and k * step + tolerance < now:
                yield _time(k, self.settings.fps), shown
                k += 1
            shown, last = frame, now
        if shown is None or first is None:
            raise RejectError("no frames", "the file opens, but not one picture could be decoded")
        usual = gaps.most_common(1)[0][0] if gaps else 0
        # In a constant frame rate the last frame lasts as long as the others, whatever the container claims.
        end = last + (usual if _is_constant(gaps, usual) else shown.duration or usual or 1)
        while k * step + tolerance < end:
            yield _time(k, self.settings.fps), shown
            k += 1
        self.duration_s = float(end * tick)
        self._check_gap(gaps, largest, usual, tick)
        self._check_end(info, float((first + end) * tick), float((usual or 1) * tick))
        if self.damage.frames > self.settings.max_damaged:
            raise RejectError("damaged", self._explain())

    def _decode(self, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
        """Frames in order of display. Errors before the first good frame don't count: broadcasts start
        mid-stream.
        """
        started, position = False, 0.0
        for packet in _demux(container, stream):
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
                _check_pixels(frame.width, frame.height, self.settings)
                started, position = True, frame.time or position
                yield frame

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
            if self.settings.max_damaged == 0:
                raise RejectError("truncated", where + (f"; {self._explain()}" if self.damage.frames else ""))
            self.damage.add(max(1, round(missing / frame_s)), where)

    def _explain(self) -> str:
        count = self.damage.frames
        return f"{count} damaged or missing frames, first: {self.damage.first}; --max-damaged {count} would accept it"


@contextmanager
def open_video(path: Path, threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """(container, first video stream). Raises RejectError for what is not a readable video."""
    check_file(path)
    try:
        container = av.open(str(path), options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        head = path.open("rb").read(512)
        if _is_text(head):
            raise RejectError("not a video", f"a text file: {head[:40].decode(errors='replace')!r}") from None
        if b"ftyp" in head[:16] and not _has_atom(path, b"moov"):
            raise RejectError("truncated", "the index (moov) that stands at the end is missing") from None
        raise RejectError("not a video", error.strerror or str(error)) from None
    with container:
        if not container.streams.video:
            raise RejectError("no video stream", f"container {container.format.name}")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        stream.codec_context.thread_count = threads
        yield container, stream


def describe(container: Any, stream: Any, settings: IngestSettings) -> VideoInfo:
    """Size and duration by the container, checked against the limits."""
    context = stream.codec_context
    _check_pixels(context.width, context.height, settings)
    duration: float | None = None
    exact = stream.duration is not None
    if stream.duration is not None:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration = container.duration / av.time_base
    if duration is not None and duration > settings.max_hours * 3600:
        raise RejectError("too long", f"{duration / 3600:.1f} h, the limit of --max-hours is {settings.max_hours} h")
    aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
    return VideoInfo(context.width, context.height, duration, exact, Fraction(aspect) if aspect > 0 else Fraction(1))


def to_rgb(frame: av.VideoFrame) -> Image.Image:
    """The frame as an upright RGB image: the display matrix of the stream is applied."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels)


def key_frames(path: Path, settings: IngestSettings, count: int) -> list[Image.Image]:
    """Up to `count` different key frames, evenly over the video; fewer where the file has fewer or cannot
    seek.
    """
    images: dict[int, Image.Image] = {}
    with open_video(path) as (container, stream):
        info = describe(container, stream, settings)
        start = stream.start_time or 0
        for i in range(count if info.duration_s else 1):
            try:
                target = start + int((i + 0.5) / count * (info.duration_s or 0) / stream.time_base)
                container.seek(target, stream=stream)
                frame = next(container.decode(stream), None)
            except av.FFmpegError:
                continue
            if frame is not None and frame.pts is not None and frame.pts not in images:
                images[frame.pts] = to_rgb(frame)
    return [images[pts] for pts in sorted(images)]


def check_file(path: Path) -> None:
    """Raises RejectError for what is no regular file with something in it."""
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from None
    if not path.is_file():
        raise RejectError("unreadable", "not a regular file")
    if size == 0:
        raise RejectError("empty file", "0 bytes")


def _demux(container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        raise RejectError("damaged", f"the container breaks off: {error.strerror or error}") from None


def _check_pixels(width: int, height: int, settings: IngestSettings) -> None:
    if width * height > settings.max_pixels:
        limit = settings.max_pixels
        raise RejectError("too many pixels", f"{width} x {height}, the limit of --max-pixels is {limit}")


def _is_constant(gaps: Counter[int], usual: int) -> bool:
    """Whether nearly all intervals are the usual one, give or take the rounding of the stream's clock."""
    return usual > 0 and gaps[usual] + gaps[usual - 1] + gaps[usual + 1] >= 0.98 * sum(gaps.values())


def _time(k: int, fps: float) -> float:
    return k / fps


def _is_text(head: bytes) -> bool:
    return bool(head) and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)


def _has_atom(path: Path, kind: bytes) -> bool:
    """Whether an MP4 has a top-level box of this kind."""
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while offset + 8 <= size:
            file.seek(offset)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if head[4:8] == kind:
                return offset + length <= size
            if length < 8:
                return False
            offset += length
    return False
