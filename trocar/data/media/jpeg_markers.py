"""Is this a whole JPEG, and of which size? Answered from its markers (ITU-T T.81, annex B), without decoding it.

Decoders differ in what damage they put up with: a marker inside the image data or a missing end is refused by
torch's decoder and painted over by DALI. Which frames a run sees must not depend on the decoder, so these are refused
before either.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Jpeg = bytes | memoryview

_SOI, _EOI = b"\xff\xd8", 0xD9
_SOS = 0xDA
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, Huffman-coded
_TABLES = {0xC4, 0xDB, 0xDD}
_BEFORE_SCAN = _FRAMES | _TABLES | {_SOS, 0xFE} | set(range(0xE0, 0xF0))
_BETWEEN_SCANS = _TABLES | {_SOS}


def frame_size(jpeg: Jpeg) -> tuple[int, int]:
    """(width, height) in pixels as the frame header says. Raises ValueError for what is not a whole JPEG."""
    return end_and_size(jpeg)[1]


def end_and_size(jpeg: Jpeg) -> tuple[int, tuple[int, int]]:
    """How many bytes the picture takes, from its first marker to its last, and its `frame_size`."""
    if jpeg[:2] != _SOI:
        raise ValueError("does not start as a JPEG does")
    size: tuple[int, int] | None = None
    position, allowed = 2, _BEFORE_SCAN
    while (marker := _marker_at(jpeg, position)) != _EOI:
        if marker not in allowed:
            raise ValueError(f"has marker 0x{marker:02x} at byte {position}, where there can be none")
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker in _FRAMES:
            size = _size_in(jpeg[position + 4 : end])
        position = end
        if marker == _SOS:
            allowed, position = _BETWEEN_SCANS, _end_of_scan(jpeg, end)
    if size is None or allowed is _BEFORE_SCAN:
        raise ValueError("ends before its image data")
    return position + 2, size


def _marker_at(jpeg: Jpeg, position: int) -> int:
    if position + 2 > len(jpeg):
        raise ValueError("ends early")
    if jpeg[position] != 0xFF:
        raise ValueError(f"has no marker at byte {position}, where one belongs")
    return jpeg[position + 1]


def _end_of_scan(jpeg: Jpeg, start: int) -> int:
    """Where the next marker is: 0xFF, but for a stuffed zero or a restart marker (0xD0 to 0xD7) behind it."""
    # By numpy, which is faster than a regular expression and lets other threads run: every frame passes here.
    scan = np.frombuffer(jpeg, np.uint8)[start:]
    marked = scan[:-1] == 0xFF
    marked &= scan[1:] != 0
    first = int(marked.argmax()) if marked.size else 0
    if marked.size and marked[first] and _is_restart(scan[first + 1]):
        places = np.flatnonzero(marked)
        marked[places[_is_restart(scan[places + 1])]] = False
        first = int(marked.argmax())
    if not marked.size or not marked[first]:
        raise ValueError("ends within its image data")
    return start + first


def _is_restart(code: Any) -> Any:
    """Whether the byte behind 0xFF, or each of several, is one of 0xD0 to 0xD7."""
    return (code & 0xF8) == 0xD0


def _size_in(header: Jpeg) -> tuple[int, int]:
    height, width = int.from_bytes(header[1:3], "big"), int.from_bytes(header[3:5], "big")
    if not width or not height:
        raise ValueError("has a frame header without a size")
    return width, height
