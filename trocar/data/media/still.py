"""Still pictures as people deliver them, opened in one way: upright, in RGB of 8 bits, decoded to the end.

What viewers show counts: the EXIF orientation is applied (JPEG, WebP, the eXIf chunk of a PNG, the tag of a TIFF),
palettes, CMYK and grey become RGB, an alpha channel is dropped. What 8 bits cannot hold is refused, not cut off: how
many of the 16 bits are in use, and which float is white, the file does not say.

Is this a whole JPEG, and of which size? Answered from its markers (ITU-T T.81, annex B), without decoding it.

Decoders differ in what damage they put up with: a marker inside the image data or a missing end is refused by torch's
decoder and painted over by DALI. Which frames a run sees must not depend on the decoder, so these are refused before
either.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from trocar.data.media.delivered_files import MOST_PIXELS, RejectError, check_size, read_picture

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


FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
# What Pillow's decoders raise for bytes that are no picture.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
)
_BITS_PER_SAMPLE = 258  # the TIFF tag
_PNG_ORIENTATIONS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp", b"rientation")
"""One of these is in every PNG with an orientation."""
_ON_THEIR_SIDE = range(5, 9)
"""EXIF orientations that swap width and height."""
_HEADER_LOCK = threading.Lock()


def read_still(path: Path, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """`open_still` of a file. Raises RejectError also for one that cannot be read or is empty."""
    return open_still(read_picture(path, max_pixels), max_pixels)


def open_still(data: bytes, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """An upright RGB image from the bytes of an image file.

    Raises RejectError for anything that is none, for more than 8 bits per channel, for a file that ends early, and for
    more than `max_pixels` pixels (before they are decoded) or a side that no JPEG can have.
    """
    if data and not any(byte > 127 or byte == 0 for byte in data[:64]):
        raise RejectError("not an image", "a text file", data[:60].decode(errors="replace"))
    return _upright(data, FORMATS, max_pixels)


def open_jpeg(jpeg: bytes) -> Image.Image:
    """The RGB image of a JPEG that Trocar wrote. Raises RejectError for bytes that don't decode to the end."""
    return _upright(jpeg, ("JPEG",), MOST_PIXELS)


def is_upright(data: bytes) -> bool:
    """Whether a picture is stored the way up it is shown. Raises RejectError for what is no picture."""
    with _refusals(FORMATS), _opened(data, FORMATS) as image:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) == 1)


def still_size(path: Path) -> tuple[int, int]:
    """(width, height) of what `read_still` gives, from the header alone where it says so. Raises RejectError for a file
    that is no picture.
    """
    data = read_picture(path, MOST_PIXELS)
    with _refusals(FORMATS), _opened(data, FORMATS) as image:
        # A PNG may say behind its pixels how it lies, and Pillow turns a TIFF while it decodes it.
        if image.format == "TIFF" or (image.format == "PNG" and any(word in data for word in _PNG_ORIENTATIONS)):
            ImageOps.exif_transpose(image, in_place=True)
            return image.width, image.height
        width, height = image.width, image.height
        if image.format == "PNG" or image.getexif().get(ExifTags.Base.Orientation) not in _ON_THEIR_SIDE:
            return width, height
        return height, width


def _upright(data: bytes, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    with _refusals(formats), _opened(data, formats) as image:
        check_size(image.width, image.height, max_pixels)
        _check_depth(image, data)
        image.load()  # a PNG may say behind its pixels how it is to be turned
        ImageOps.exif_transpose(image, in_place=True)
        pixels: Image.Image = image.convert("RGB")
    return pixels


@contextmanager
def _refusals(formats: tuple[str, ...]) -> Iterator[None]:
    """What Pillow raises for a file becomes a RejectError."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise RejectError("too many pixels", str(error)) from None
    except UnidentifiedImageError:
        raise RejectError("undecodable image", f"no {' or '.join(formats)}") from None
    except _BROKEN as error:
        raise RejectError("undecodable image", str(error)) from None


def _opened(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """The image, of which only the header is read."""
    with _HEADER_LOCK, warnings.catch_warnings():  # the list of filters belongs to all threads
        # Pillow warns from 89 million pixels on; the limit that counts is that of the caller.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(io.BytesIO(data), formats=formats)  # noqa: TID251
        return image


def _check_depth(image: Image.Image, data: bytes) -> None:
    """Raises RejectError for more than 8 bits per channel. Pillow cuts colours of 16 bits to their upper 8 unasked."""
    if image.mode.startswith(("I", "F")):
        raise RejectError("unsupported image", f"mode {image.mode}: more than 8 bits per channel")
    bits = 8
    if image.format == "PNG":
        bits = data[24]  # the bit depth in the header chunk, which comes first
    elif isinstance(image, TiffImageFile):
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    if bits > 8:
        raise RejectError("unsupported image", f"mode {image.mode};{bits}: more than 8 bits per channel")
