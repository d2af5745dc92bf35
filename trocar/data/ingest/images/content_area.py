"""The content area of an endoscope picture: a disc or a rectangle on black, constant for a whole video.

Recorders surround the round view of an endoscope with black and put text there; the view may grow and
shrink with the zoom. The box kept is the one that holds everything lit in at least a fifth of the sampled
frames, so neither a zoomed-out moment nor text nor one menu screen decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

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
    box: tuple[int, int, int, int] | None


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


def _to_source(
    rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int], small: tuple[int, int]
) -> tuple[int, int, int, int]:
    # Even coordinates keep the chroma samples of 4:2:0 video whole.
    def scaled(span: tuple[int, int], full: int, part: int) -> tuple[int, int]:
        low, high = (round(edge * full / part / 2) * 2 for edge in span)
        return low, min(high, full) - low

    left, width = scaled(columns, size[0], small[0])
    top, height = scaled(rows, size[1], small[1])
    return left, top, width, height
