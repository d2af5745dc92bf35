"""Canonical JPEG: baseline, 8-bit, YCbCr 4:2:0, no EXIF, no ICC profile; what every decoder reads alike."""

from __future__ import annotations

import io
import re
from fractions import Fraction

from PIL import Image

from trocar.data.media.jpeg_markers import end_and_size

_SOF_BASELINE, _SOS, _APP0, _COMMENT = 0xC0, 0xDA, 0xE0, 0xFE
_TABLES = {0xDB, 0xC4, 0xDD}
_ENCODER = re.compile(rb"Lavc[0-9.]{1,20}\0?")


def encode(image: Image.Image, quality: int) -> bytes:
    """Canonical JPEG of an RGB image."""
    buffer = io.BytesIO()
    clean = Image.frombytes("RGB", image.size, image.tobytes())  # Pillow would write a comment kept in `info`
    clean.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=False, progressive=False)
    return buffer.getvalue()


def is_canonical(data: bytes) -> bool:
    """Whether these bytes are a canonical JPEG, by its markers (ITU-T T.81, annex B): nothing after the end
    either, and nothing that the reader of a run refuses.

    A comment is canonical only if it is the name and version of a video tool (`Lavc60.3.100`), an APP0 segment only
    if it is JFIF without a thumbnail: others may hold a patient's name or an unmasked picture.
    """
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        return False
    position, baseline = 2, False
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if marker == _SOS:
            return baseline and _is_whole(data)
        if marker == _SOF_BASELINE:
            baseline = _is_420(body)
        elif marker == _COMMENT:
            if not _ENCODER.fullmatch(body):
                return False
        elif marker == _APP0:
            if not _is_plain_jfif(body):
                return False
        elif marker not in _TABLES:
            return False
        position += 2 + length
    return False


def _is_whole(data: bytes) -> bool:
    try:
        end, _ = end_and_size(data)
    except ValueError:
        return False
    return end == len(data)


def _is_plain_jfif(body: bytes) -> bool:
    """JFIF 1.02: name, version, units and densities, and a thumbnail of 0 x 0 pixels."""
    return len(body) == 14 and body[:5] == b"JFIF\0" and body[12:] == b"\0\0"


def target_size(width: int, height: int, short_side: int | None, pixel_aspect: Fraction) -> tuple[int, int]:
    """(width, height) to store: square pixels, the short side as asked, nothing enlarged but by the pixel
    aspect.
    """
    shown = float(width * pixel_aspect), float(height)
    if pixel_aspect < 1:
        shown = float(width), float(height / pixel_aspect)
    scale = 1.0 if short_side is None else min(1.0, short_side / min(shown))
    return max(1, round(shown[0] * scale)), max(1, round(shown[1] * scale))


def _is_420(frame_header: bytes) -> bool:
    if len(frame_header) < 15 or frame_header[0] != 8 or frame_header[5] != 3:
        return False
    return [frame_header[i] for i in (7, 10, 13)] == [0x22, 0x11, 0x11]
