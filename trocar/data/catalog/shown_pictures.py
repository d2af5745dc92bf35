"""What the pictures in a shards folder show of the pictures that they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]
"""(left, top, width, height) in pixels."""
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
