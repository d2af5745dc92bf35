"""Still pictures as people deliver them, opened in one way: upright, in RGB of 8 bits, decoded to the end.

What viewers show counts: the EXIF orientation is applied (JPEG, WebP, the eXIf chunk of a PNG, the tag of a TIFF),
palettes, CMYK and grey become RGB, an alpha channel is dropped. What 8 bits cannot hold is refused, not cut off: how
many of the 16 bits are in use, and which float is white, the file does not say.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from trocar.data.media.delivered_files import MOST_PIXELS, RejectError, check_size, read_picture

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
