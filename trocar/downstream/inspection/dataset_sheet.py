"""The contact sheet of a labelled data set: frames of its splits and cases, with masks drawn and labels written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageColor

from trocar.data.catalog.contact_sheet import CELL, COLUMNS, ROWS, TALL, Cell, Colour, Groups, draw_sheet
from trocar.downstream.features.frame_cache import decoded
from trocar.downstream.figures.style import colour
from trocar.downstream.labels import IGNORED_PIXEL, LabelledFrames, LabelSpace, Mask

SHAPE = TALL, CELL - 2
"""(height, width) to which frames are squashed: all of one size, as evaluation squashes them to squares."""
OPACITY = 0.5


def contact_sheet(data: LabelledFrames) -> Image.Image:
    """RGB page of up to 96 labelled frames: equally many of every split and, within it, of as many cases as there is
    room for.

    Masks lie over their pictures in the colours of the legend; the background and pixels that are not scored are left
    as they are. Else the caption is the first label of a kind that has one class a frame.
    """
    masks = next((space for space in data.spaces if space.kind == "mask" and space.read_mask is not None), None)
    rows = np.arange(len(data), dtype=np.int64) if masks is None else data.rows(masks.task)
    chosen = sorted(_by_case(data, rows).pick(ROWS * COLUMNS))
    part = replace(data, frames=data.frames.iloc[chosen].reset_index(drop=True))
    shown: set[int] = set()
    cells: dict[int, Cell] = {}
    for position, (pixels,) in decoded(part, [SHAPE]):
        row = part.frames.iloc[position]
        if masks is not None:
            mask = _squashed(_mask(masks, data.root / str(row["mask"])))
            shown |= set(np.unique(mask).tolist())
            pixels = _tinted(pixels, mask, masks.background)
        split = f"{row['split']}: " if row["split"] else ""
        cells[position] = Cell(Image.fromarray(pixels), f"{split}{row['case']}", _caption(data, row))
    used = sorted(shown - {IGNORED_PIXEL, -1 if masks is None or masks.background is None else masks.background})
    legend = [] if masks is None else [(masks.classes[index], _colour(index)) for index in used]
    return draw_sheet([cells[position] for position in sorted(cells)], legend)


def _by_case(data: LabelledFrames, rows: npt.NDArray[np.int64]) -> Groups:
    found: dict[str, dict[str, Groups]] = {}
    for (split, case), part in data.frames.iloc[rows].groupby(["split", "case"], sort=False):
        found.setdefault(str(split), {})[str(case)] = Groups(rows=part.index.to_numpy(np.int64))
    return Groups({split: Groups(cases) for split, cases in found.items()})


def _mask(space: LabelSpace, path: Path) -> Mask:
    assert space.read_mask is not None
    return space.read_mask(path)


def _squashed(mask: Mask) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(SHAPE[::-1], Image.Resampling.NEAREST), np.uint8)


def _tinted(pixels: npt.NDArray[np.uint8], mask: Mask, background: int | None) -> npt.NDArray[np.uint8]:
    drawn = (mask != IGNORED_PIXEL) & (mask != (IGNORED_PIXEL if background is None else background))
    colours = np.array([_colour(index) for index in range(256)], np.float32)[mask]
    mixed = (1 - OPACITY) * pixels + OPACITY * colours
    tinted: npt.NDArray[np.uint8] = np.where(drawn[..., None], mixed, pixels).round().astype(np.uint8)
    return tinted


def _colour(index: int) -> Colour:
    red, green, blue = ImageColor.getrgb(colour(index))[:3]
    return red, green, blue


def _caption(data: LabelledFrames, row: pd.Series) -> str:
    """The first label with one class a frame, else the time."""
    for space in data.spaces:
        if space.kind == "multiclass" and row[space.task] >= 0:
            return str(space.classes[int(row[space.task])])
    return f"{row['time_s']:.0f} s"
