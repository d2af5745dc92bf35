"""From upright source pictures to what is stored: masked, cut to the content, scaled, encoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from PIL import Image

from trocar.data.ingest.images import canonical_jpeg
from trocar.data.ingest.images.content_area import ContentArea, find_content
from trocar.data.ingest.settings import IngestSettings
from trocar.data.media.refusal import RejectError
from trocar.data.media.video.frame_conversion import Box


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
        return canonical_jpeg.target_size(width, height, self.settings.short_side, self.pixel_aspect)

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
        return canonical_jpeg.encode(image, self.settings.jpeg_quality)

    def packed(self, data: bytes, image: Image.Image) -> bytes:
        """The file's own bytes where they are what would be stored, else a new JPEG."""
        self.expect(image.size)
        as_it_is = not self.masks and self.content.box is None and self.target(image.size) == image.size
        return data if as_it_is and canonical_jpeg.is_canonical(data) else self.encode(image)
