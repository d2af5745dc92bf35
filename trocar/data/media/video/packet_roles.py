"""What the packets of a video stream are to one another, read from their headers.

Only H.264 (ITU-T H.264, 7.3.1 and 7.4.1), HEVC (ITU-T H.265, 7.3.1.2 and 7.4.2.2) and codecs without prediction
between pictures are read: for all others the answer is None, and every packet has to be decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

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
