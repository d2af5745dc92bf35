"""Canonical JPEG: baseline, 8-bit, YCbCr 4:2:0, no EXIF, no ICC profile; what every decoder reads alike."""

from __future__ import annotations

import io
import re
import struct
import warnings
from fractions import Fraction

from PIL import Image, ImageOps, UnidentifiedImageError

from trocar.data.media.jpeg_markers import end_and_size
from trocar.data.media.refusal import RejectError, check_size

_SOF_BASELINE, _SOS, _APP0, _COMMENT = 0xC0, 0xDA, 0xE0, 0xFE
_TABLES = {0xDB, 0xC4, 0xDD}
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_ENCODER = re.compile(rb"Lavc[0-9.]{1,20}\0?")
# What Pillow's decoders raise for bytes that are no picture.
_BROKEN = (OSError, ValueError, TypeError, SyntaxError, struct.error, EOFError, IndexError, KeyError, OverflowError)


def encode(image: Image.Image, quality: int) -> bytes:
    """Canonical JPEG of an RGB image."""
    buffer = io.BytesIO()
    clean = Image.frombytes("RGB", image.size, image.tobytes())  # Pillow would write a comment kept in `info`
    clean.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=False, progressive=False)
    return buffer.getvalue()


def decode(jpeg: bytes) -> Image.Image:
    """Full decode. Raises RejectError for bytes that don't decode to the end."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            image.load()
            pixels: Image.Image = image.convert("RGB")
            return pixels
    except _BROKEN as error:
        raise RejectError("undecodable image", str(error)) from None


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


def load_image(data: bytes, max_pixels: int) -> Image.Image:
    """An upright RGB image from the bytes of an image file. Raises RejectError for anything that is none, and for one
    of more than `max_pixels` (before it is decoded) or of a side that no JPEG can have.
    """
    if data and not any(byte > 127 or byte == 0 for byte in data[:64]):
        raise RejectError("not an image", "a text file", data[:60].decode(errors="replace"))
    try:
        with _opened(data) as image:
            check_size(image.width, image.height, max_pixels)
            if image.mode.startswith(("I", "F")):
                raise RejectError("unsupported image", f"mode {image.mode}: more than 8 bits per channel")
            image.load()
            upright: Image.Image = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except Image.DecompressionBombError as error:
        raise RejectError("too many pixels", str(error)) from None
    except UnidentifiedImageError:  # its words hold an address in memory
        raise RejectError("undecodable image", f"no {' or '.join(_FORMATS)}") from None
    except _BROKEN as error:
        raise RejectError("undecodable image", str(error)) from None


def _opened(data: bytes) -> Image.Image:
    """The image, of which only the header is read."""
    with warnings.catch_warnings():
        # Pillow warns from 89 million pixels on; the limit that counts is --max-pixels.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        return image


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
