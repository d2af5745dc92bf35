"""Hashes by which the same picture is found again: the catalog's 256-bit difference hash, and a test frame's variants.

A copy may have lost its border, and the pool its black surround (`trocar ingest` cuts it off), so a test frame is
hashed several times: whole and without the surround, each also without a border of 4 and of 8 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trocar.data.ingest.content import SAMPLES, find_content
from trocar.data.ingest.quality import dhash

U8 = npt.NDArray[np.uint8]
BORDERS = (0.0, 0.04, 0.08)
"""Part of each side that is cut off."""
VARIANTS = 2 * len(BORDERS)
LEAST_BITS = 40
"""Fewer set bits than this (of 256): black, blank or fog, which looks the same in every operation."""
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Pictures:
    """Hashed frames of some videos, in order of video and time.

    `hashes` uint8[n, V, 32] (V = 1 for a pool), `video` int64[n] an index into `names`, `time_s` float64[n] seconds
    in the video. `names`: the name of each video; `cases`: the case (data set, case) of each.
    """

    hashes: U8
    video: npt.NDArray[np.int64]
    time_s: npt.NDArray[np.float64]
    names: tuple[str, ...]
    cases: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.video)

    def informative(self) -> Pictures:
        """Without the frames that look the same in every operation."""
        return self.only(set_bits(self.hashes[:, 0]) >= LEAST_BITS)

    def only(self, keep: npt.NDArray[np.bool_]) -> Pictures:
        """The frames of bool[n]."""
        return Pictures(self.hashes[keep], self.video[keep], self.time_s[keep], self.names, self.cases)

    @staticmethod
    def join(parts: Sequence[Pictures]) -> Pictures:
        """All of them; videos stay apart."""
        shift = np.cumsum([0, *(len(part.names) for part in parts)])
        return Pictures(
            np.concatenate([p.hashes for p in parts]) if parts else np.zeros((0, VARIANTS, 32), np.uint8),
            np.concatenate([p.video + s for p, s in zip(parts, shift, strict=False)] or [np.zeros(0, np.int64)]),
            np.concatenate([p.time_s for p in parts] or [np.zeros(0)]),
            tuple(name for p in parts for name in p.names),
            tuple(case for p in parts for case in p.cases),
        )


def variants(images: Sequence[Image.Image]) -> U8:
    """uint8[n, V, 32]: every variant of the frames of one video, which share their surround; the whole frame first."""
    grey = [image.convert("L") for image in images]
    # The surround is found from colour pictures of the video's usual size: some frames of a set may differ.
    usual = [image for image in images if image.size == images[0].size]
    box = find_content(usual[:: max(1, len(usual) // SAMPLES)]).box
    found = np.empty((len(images), VARIANTS, 32), np.uint8)
    for at, image in enumerate(grey):
        whole = (0.0, 0.0, float(image.width), float(image.height))
        inner = whole
        if box is not None:
            left, top, width, height = map(float, box)
            inner = (left, top, left + width, top + height)
        for variant, (outer, border) in enumerate((o, b) for o in (whole, inner) for b in BORDERS):
            found[at, variant] = np.frombuffer(dhash(image.crop(_inside(outer, border))), np.uint8)
    return found


def set_bits(hashes: U8) -> npt.NDArray[Any]:
    """Number of set bits of uint8[..., 32]."""
    count: npt.NDArray[Any] = _BITS[hashes].sum(-1, dtype=np.int64)
    return count


def distance(one: U8, other: U8) -> npt.NDArray[Any]:
    """Differing bits of uint8[..., 32] and uint8[..., 32]."""
    return set_bits(one ^ other)


def _inside(box: Box, border: float) -> tuple[int, int, int, int]:
    wide, tall = border * (box[2] - box[0]), border * (box[3] - box[1])
    return round(box[0] + wide), round(box[1] + tall), round(box[2] - wide), round(box[3] - tall)
