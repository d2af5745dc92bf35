"""Device memory that a GPU's decoders reserve before the first frame, so that no allocation stops the device later.

A single 4K video in a catalog would reserve 16 GB for the engine at batches of 1,024. So what is reserved follows the
size that 99 of 100 frames don't exceed, and never more than a fixed amount: what a larger frame needs beyond is
allocated when it comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.selection import Selection

MOST = 1 << 30
"""Bytes that the decoders of one pipeline reserve, all together."""
PADDING = 16 << 20
"""Bytes of a thread's buffers, DALI's own default: frames up to 1920x1080."""
ENGINE_BYTES_PER_PIXEL = 3  # of every frame of a batch, however much of it the engine gets
THREAD_BYTES_PER_PIXEL = 8
SHARE = 99  # per cent of the frames
LOOKED_AT = 1 << 14  # frames of a selection


@dataclass(frozen=True)
class Reserved:
    """For one decoder: `width` and `height` of the frames that the JPEG engine has room for, `padding` bytes a thread.

    1 x 1 where the engine decodes nothing.
    """

    width: int
    height: int
    padding: int


def reserve(
    frame: tuple[int, int], batch: int, threads: int, hw_decoder_load: float, decoders: int = 1, most: int = MOST
) -> Reserved:
    """What each of `decoders` decoders reserves for batches of frames (width, height): below `most` bytes together."""
    width, height = frame
    budget = most // decoders
    padding = min(max(PADDING, THREAD_BYTES_PER_PIXEL * width * height), budget // 2 // threads)
    if hw_decoder_load == 0:
        return Reserved(1, 1, padding)
    pixels = (budget - padding * threads) // (ENGINE_BYTES_PER_PIXEL * batch)
    shrink = min(1.0, math.sqrt(pixels / (width * height)))
    return Reserved(max(1, int(width * shrink)), max(1, int(height * shrink)), padding)


def usual_frame(selection: Selection, catalog: Catalog) -> tuple[int, int]:
    """(width, height) that 99 of 100 frames of a selection don't exceed, by frames spread evenly over its pools."""
    widths, heights = [], []
    for pool in selection.pools:
        index = np.linspace(0, len(pool) - 1, max(1, round(LOOKED_AT * pool.share))).astype(np.int64)
        rows = pool.runs.rows(index)
        widths.append(catalog.frames["width"][rows])
        heights.append(catalog.frames["height"][rows])
    width, height = (np.percentile(np.concatenate(x), SHARE, method="higher") for x in (widths, heights))
    return int(width), int(height)
