"""Open a video file that nobody vouches for: its stream, its packets and what its container says.

Also how large its pictures are when they stand upright, without decoding more than that needs.

What the packets of a video stream are to one another, read from their headers.

Only H.264 (ITU-T H.264, 7.3.1 and 7.4.1), HEVC (ITU-T H.265, 7.3.1.2 and 7.4.2.2) and codecs without prediction
between pictures are read: for all others the answer is None, and every packet has to be decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image

from trocar.data.media.delivered_files import Limits, RejectError, check_file, check_size
from trocar.data.media.frame_conversion import to_rgb

_INTRA_ONLY = frozenset({"mjpeg", "prores", "dnxhd"})

Buffer = memoryview


class Irregular(Exception):  # noqa: N818 - not an error of the video's, only beyond what is read here
    """This stream is not as simple as packets that tell their role: it has to be decoded whole."""


class Role(Enum):
    """`RESTART`: no picture from here on is predicted from an earlier one. `DISPOSABLE`: no picture is
    predicted from this one. `REFERENCE`: all others.
    """

    RESTART = 0
    REFERENCE = 1
    DISPOSABLE = 2


def is_intra_only(codec: str) -> bool:
    """Whether no picture of this codec is predicted from another: each is shown when it is decoded."""
    return codec in _INTRA_ONLY


def role_reader(codec: str, extradata: bytes | None) -> Callable[[Buffer], Role] | None:
    """A function from the bytes of a packet to its role; it raises Irregular for a packet that is not well-formed.

    `extradata` is the stream's avcC or hvcC box (ISO/IEC 14496-15); any other means start codes (Annex B).
    """
    if codec in _INTRA_ONLY:
        return lambda packet: Role.RESTART
    extradata = extradata or b""
    boxed = len(extradata) > 6 and extradata[0] == 1
    if codec == "h264":
        split = _by_length((extradata[4] & 3) + 1) if boxed else _by_start_code
        return _H264(split).role
    if codec == "hevc" and boxed and len(extradata) > 22:
        # A disposable picture of a lower temporal layer may still be a reference of a higher one.
        one_layer = (extradata[21] >> 3) & 7 == 1
        return _Hevc(_by_length((extradata[21] & 3) + 1), one_layer).role
    return None


class _Parameters:
    """Keeps watch that no picture depends on parameter sets in a packet that may be left out."""

    def __init__(self) -> None:
        self.in_band: bool | None = None

    def check(self, restart: bool, present: bool) -> None:
        if restart:
            self.in_band = present if self.in_band is None else self.in_band
        if present != (restart and bool(self.in_band)):
            raise Irregular("parameter sets come and go")


class _H264:
    def __init__(self, split: Callable[[Buffer], Iterator[Buffer]]) -> None:
        self.split = split
        self.parameters = _Parameters()

    def role(self, packet: Buffer) -> Role:
        slices, restart, reference, parameters = 0, False, False, False
        for unit in self.split(packet):
            kind, importance = unit[0] & 31, unit[0] & 0x60
            if unit[0] & 0x80 or not 1 <= kind <= 20 or (kind == 5 and not importance):
                raise Irregular(f"no such NAL unit: {unit[0]:#x}")
            if kind <= 5:
                slices += 1
                restart |= kind == 5
                reference |= importance > 0
            parameters |= kind in (7, 8)
            reference |= kind in (13, 14, 15, 19, 20)
        if not slices:
            raise Irregular("a packet without a picture")
        self.parameters.check(restart, parameters)
        return Role.RESTART if restart else Role.REFERENCE if reference else Role.DISPOSABLE


class _Hevc:
    def __init__(self, split: Callable[[Buffer], Iterator[Buffer]], one_layer: bool) -> None:
        self.split = split
        self.one_layer = one_layer
        self.parameters = _Parameters()

    def role(self, packet: Buffer) -> Role:
        slices, restart, reference, parameters = 0, False, not self.one_layer, False
        for unit in self.split(packet):
            if len(unit) < 2 or unit[0] & 0x80 or not unit[1] & 7:
                raise Irregular(f"no such NAL unit: {unit[0]:#x}")
            kind = unit[0] >> 1
            if kind < 32:
                slices += 1
                restart |= kind in (19, 20)  # IDR; other entry points may have leading pictures from before
                reference |= kind >= 16 or kind % 2 == 1
            parameters |= 32 <= kind <= 34
        if not slices:
            raise Irregular("a packet without a picture")
        self.parameters.check(restart, parameters)
        return Role.RESTART if restart else Role.REFERENCE if reference else Role.DISPOSABLE


def _by_length(size: int) -> Callable[[Buffer], Iterator[Buffer]]:
    def split(packet: Buffer) -> Iterator[Buffer]:
        position, end = 0, len(packet)
        while position < end:
            start = position + size
            position = start + int.from_bytes(packet[position:start], "big")
            if not start < position <= end:
                raise Irregular("NAL units that don't fill their packet")
            yield packet[start:position]

    return split


def _by_start_code(packet: Buffer) -> Iterator[Buffer]:
    data = bytes(packet)
    if data[:4].lstrip(b"\0")[:1] != b"\1":
        raise Irregular("a packet that does not begin with a start code")
    position = data.index(b"\0\0\1")
    while position >= 0:
        start = position + 3
        position = data.find(b"\0\0\1", start)
        if start >= len(data):
            raise Irregular("an empty NAL unit")
        yield packet[start : position if position >= 0 else len(packet)]


# Playlists and concat scripts would make a file named .mp4 read other files or the network.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,mxf,ogg,mpegvideo",
}
_WITHOUT_TIMES = ("avi", "asf")
"""Containers that have the order of decoding alone (an ASF file has times, but FFmpeg takes them for those)."""


@dataclass
class VideoInfo:
    """What the container says: coded size in pixels, `duration_s` (None where it doesn't say; `exact_duration` where it
    is the stream's own), the pixel aspect; `container` is its name, `states_times` whether it says when each picture is
    shown.
    """

    width: int
    height: int
    duration_s: float | None
    exact_duration: bool
    pixel_aspect: Fraction
    container: str = "MP4"
    states_times: bool = True

    @property
    def is_counted(self) -> bool:
        """Whether the container (AVI) counts its pictures instead of giving each a time: one that is lost moves all
        later ones, and only the number that should be there tells.
        """
        return self.container == "AVI" and self.exact_duration


@contextmanager
def open_video(path: Path, threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """(container, first video stream). Raises RejectError for what is not a readable video."""
    check_file(path)
    try:
        container = av.open(str(path), options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        with path.open("rb") as file:
            head = file.read(512)
        if _is_text(head):
            raise RejectError("not a video", "a text file", head[:40].decode(errors="replace")) from None
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


def describe(container: Any, stream: Any, limits: Limits) -> VideoInfo:
    """Size and duration by the container, checked against the limits."""
    context = stream.codec_context
    check_size(context.width, context.height, limits.max_pixels)
    duration: float | None = None
    exact = stream.duration is not None
    if stream.duration is not None:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration = container.duration / av.time_base
    if duration is not None and duration > limits.max_hours * 3600:
        raise RejectError("too long", f"{duration / 3600:.1f} h, the limit of --max-hours is {limits.max_hours} h")
    aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
    kind = container.format.name
    return VideoInfo(
        context.width,
        context.height,
        duration,
        exact,
        Fraction(aspect) if aspect > 0 else Fraction(1),
        kind.upper().split(",")[0],
        kind not in _WITHOUT_TIMES,
    )


def key_frames(path: Path, limits: Limits, count: int) -> list[Image.Image]:
    """Up to `count` different key frames, evenly over the video; fewer where the file has fewer or cannot
    seek.
    """
    images: dict[int, Image.Image] = {}
    with open_video(path) as (container, stream):
        info = describe(container, stream, limits)
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


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """Its packets. Raises RejectError where the container breaks off."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        raise RejectError("damaged", f"the container breaks off: {error.strerror or error}") from None


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


Size = tuple[int, int]
"""(width, height) in pixels."""


def video_sizes(path: Path) -> tuple[Size, ...]:
    """Sizes of a video's first picture, the display matrix applied: as stored, and where its pixels are no squares, as
    displayed too. Raises RejectError for a file that is no video or has no picture.
    """
    try:
        with open_video(path) as (container, stream):
            frame = next(container.decode(stream), None)
            if frame is None:
                raise RejectError("no frames", "not a single picture can be decoded")
            width, height = to_rgb(frame).size
            aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or 1.0
            wide = 1 / aspect if (width, height) == (frame.height, frame.width) else aspect
    except av.FFmpegError as error:
        raise RejectError("undecodable video", error.strerror or str(error)) from None
    return tuple(dict.fromkeys([(width, height), (round(width * wide), height)]))
