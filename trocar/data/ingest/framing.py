"""From upright source pictures to what is stored: masked, cut to the content, scaled, encoded as canonical JPEG; and
what the stored ones show of their sources, for masks of these.

The content of an endoscope picture is a disc or a rectangle on black, constant for a whole video. Recorders surround
the round view with black and put text there; the view may grow and shrink with the zoom. The box kept is the one that
holds everything lit in at least a fifth of the sampled frames, so neither a zoomed-out moment nor text nor one menu
screen decides.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from trocar.data.ingest.shard_writer import SHARD_BYTES
from trocar.data.media.delivered_files import Limits, RejectError
from trocar.data.media.still import end_and_size

Box = tuple[int, int, int, int]
"""(left, top, width, height) in pixels."""

SAMPLES = 16
_SIDE = 180
_LIT_LUMA = 20
_LIT_FRAMES = 0.2  # share of the frames in which a pixel is lit
_LIT_LINE = 0.08  # share of a line's pixels: a disc reaches it 1 % inside its rim, a line of text doesn't
_BRIDGE = 0.1  # a dark band narrower than this part of the picture doesn't end the content
_SMALLEST = 0.3  # a box smaller than this part of a side is not believed
_WHOLE = 0.97
_SNAP = 0.015  # a border narrower than this part of a side is an encoder's edge and stays


@dataclass(frozen=True)
class ContentArea:
    """`kind` is `circle`, `rectangle` or `full`; `box` (left, top, width, height) in source pixels, None
    for all.
    """

    kind: str
    box: Box | None


def find_content(images: Sequence[Image.Image], size: tuple[int, int] | None = None) -> ContentArea:
    """Content area from a few RGB frames of one size; black frames don't count.

    `size` (width, height) is that of the source where the images are reduced from it (see `reduced`).
    """
    lumas = [_luma(image) for image in images]
    lumas = [luma for luma in lumas if np.percentile(luma, 99) >= 32]
    if not lumas:
        return ContentArea("full", None)
    lit = np.mean([luma > _LIT_LUMA for luma in lumas], axis=0) >= _LIT_FRAMES
    rows, columns = _span(lit.mean(axis=1)), _span(lit.mean(axis=0))
    height, width = lit.shape
    if rows is None or columns is None:
        return ContentArea("full", None)
    # Once more inside the first box: text beside the content no longer counts.
    rows = _span(lit[:, slice(*columns)].mean(axis=1)) or rows
    columns = _span(lit[slice(*rows)].mean(axis=0)) or columns
    tall, wide = rows[1] - rows[0], columns[1] - columns[0]
    if tall < _SMALLEST * height or wide < _SMALLEST * width:
        return ContentArea("full", None)
    round_view = _corners_dark(lit[slice(*rows), slice(*columns)])
    if tall >= _WHOLE * height and wide >= _WHOLE * width:
        return ContentArea("circle" if round_view else "full", None)
    box = _to_source(rows, columns, size or images[0].size, (width, height))
    if min(box[2:]) < 1:
        return ContentArea("full", None)  # of a picture of a few pixels, even edges may leave nothing
    return ContentArea("circle" if round_view else "rectangle", box)


def reduced(size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) at which an image of this size is looked at."""
    scale = min(1.0, _SIDE / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _luma(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image.convert("L").resize(reduced(image.size), Image.Resampling.BOX))


def _span(share: np.ndarray[Any, Any]) -> tuple[int, int] | None:
    """First and one past last line of the longest stretch of lit lines."""
    lit = np.flatnonzero(share >= _LIT_LINE)
    if not len(lit):
        return None
    breaks = np.flatnonzero(np.diff(lit) > _BRIDGE * len(share))
    starts, ends = np.r_[0, breaks + 1], np.r_[breaks, len(lit) - 1]
    longest = int(np.argmax(lit[ends] - lit[starts]))
    low, high = int(lit[starts[longest]]), int(lit[ends[longest]]) + 1
    edge = _SNAP * len(share)
    return (0 if low <= edge else low), (len(share) if high >= len(share) - edge else high)


def _corners_dark(lit: np.ndarray[Any, Any]) -> bool:
    tall, wide = max(1, lit.shape[0] // 16), max(1, lit.shape[1] // 16)
    corners = (lit[:tall, :wide], lit[:tall, -wide:], lit[-tall:, :wide], lit[-tall:, -wide:])
    return sum(float(corner.mean()) < 0.2 for corner in corners) >= 3


def _to_source(rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int], small: tuple[int, int]) -> Box:
    # Even coordinates keep the chroma samples of 4:2:0 video whole.
    def scaled(span: tuple[int, int], full: int, part: int) -> tuple[int, int]:
        low, high = (round(edge * full / part / 2) * 2 for edge in span)
        return low, min(high, full) - low

    left, width = scaled(columns, size[0], small[0])
    top, height = scaled(rows, size[1], small[1])
    return left, top, width, height


INGEST_VERSION = 4
"""Raised when the same video and settings give other frames, or a record says more of them: finished videos of another
version are done again.
"""


class IngestSettings(Limits):
    """Settings of one ingest; the limits decide what is rejected, all else decides the bytes of the frames."""

    fps: float = Field(1.0, gt=0, le=240, description="frames per second of video that are kept, above 0 to 240")
    short_side: int | None = Field(
        256,
        ge=16,
        le=8192,
        description="pixels of the shorter side that frames are scaled down to, 16 to 8192; null keeps the size; "
        "nothing is enlarged",
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="quality of the JPEGs that are written, 1 to 100")
    crop: Literal["auto", "none"] = Field(
        default="auto", description="auto: cut away what is black around the picture; none: leave it"
    )
    shard_bytes: int = Field(
        SHARD_BYTES, ge=1 << 12, description="bytes after which a new shard of the same video begins"
    )

    def identity(self) -> dict[str, object]:
        """The part that decides the bytes: a finished video with another one is ingested again."""
        return {"ingest_version": INGEST_VERSION, **self.model_dump(exclude=set(Limits.model_fields))}


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


class Framing:
    """How the pictures of one video, or one isolated picture, are framed; the content box is one for all of them."""

    def __init__(self, settings: IngestSettings, masks: Sequence[Box]) -> None:
        self.settings = settings
        self.masks = masks
        self.content = ContentArea("full", None)
        self.pixel_aspect = Fraction(1)
        self.sizes: list[tuple[int, int]] = []

    @property
    def source_size(self) -> tuple[int, ...]:
        """(width, height) of the source pictures, empty where they differ."""
        return self.sizes[0] if len(self.sizes) == 1 else ()

    def masked(self, image: Image.Image) -> Image.Image:
        """The picture with its boxes blacked out."""
        if not self.masks:
            return image
        pixels = np.array(image)
        for left, top, width, height in self.masks:
            pixels[top : top + height, left : left + width] = 0
        return Image.fromarray(pixels)

    def find_content(self, images: Iterable[Image.Image], size: tuple[int, int] | None = None) -> None:
        """Set the content box from some pictures, where it is asked for."""
        if self.settings.crop == "auto":
            self.content = find_content([self.masked(image) for image in images], size)

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) to store of a source picture of `size`."""
        box = self.content.box
        width, height = (box[2], box[3]) if box else size
        return target_size(width, height, self.settings.short_side, self.pixel_aspect)

    def expect(self, size: tuple[int, int]) -> None:
        """Raises RejectError for a picture of another size than those before it, where box or masks would not fit."""
        if size in self.sizes:
            return
        if self.sizes and (self.content.box or self.masks):
            raise RejectError("size changes", f"from {self.sizes[0]} to {size}: content box and masks don't fit")
        self.sizes.append(size)

    def encode(self, image: Image.Image) -> bytes:
        """The JPEG to store."""
        self.expect(image.size)
        left, top, width, height = self.content.box or (0, 0, *image.size)
        image, target = self.masked(image), self.target(image.size)
        if target != image.size or self.content.box:
            box = (left, top, left + width, top + height)
            image = image.resize(target, Image.Resampling.BICUBIC, box=box)
        return encode(image, self.settings.jpeg_quality)

    def packed(self, data: bytes, image: Image.Image) -> bytes:
        """The file's own bytes where they are what would be stored, else a new JPEG."""
        self.expect(image.size)
        as_it_is = not self.masks and self.content.box is None and self.target(image.size) == image.size
        return data if as_it_is and is_canonical(data) else self.encode(image)


Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShownPictures:
    """One video's pictures in a shards folder. Ingest cut `box` out of source pictures of `size` (width, height), both
    in upright source pixels, and blacked out the boxes `hidden`; what it did to the scale plays no part.
    """

    size: tuple[int, int]
    box: Box
    hidden: tuple[Box, ...] = ()

    def part_of(self, mask: Mask, ignored: int) -> Mask:
        """The part [h, w] of a mask [H, W] of the whole source picture that the ingested picture shows; what was
        blacked out becomes `ignored`.

        The mask may have another scale than the source: edges then go to the nearest pixel of the mask.
        """
        if self.hidden:
            mask = mask.copy()
            for hidden in self.hidden:
                mask[self._within(hidden, mask)] = ignored
        return mask[self._within(self.box, mask)]

    def _within(self, box: Box, mask: Mask) -> tuple[slice, slice]:
        left, top, width, height = box
        return _scaled(top, height, self.size[1], mask.shape[0]), _scaled(left, width, self.size[0], mask.shape[1])


def _scaled(first: int, length: int, whole: int, pixels: int) -> slice:
    return slice(round(first * pixels / whole), round((first + length) * pixels / whole))
