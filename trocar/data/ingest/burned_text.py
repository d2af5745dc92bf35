"""A hint at text that a recorder has burned into a video: names, hospitals, dates, readings of devices.

Text stands still while the scene moves, and its strokes are dense: along a line bright edges follow dark ones. So the
horizontal gradient of some frames is compared. Where its sign stays, an edge stands still; where many such edges of
both signs lie close together, there is text, or a logo. The rim of the endoscope's view has edges of one sign only.
Text that is there for less than half of the time is not found. `benchmarks/burned_text.py` measures hits and false
alarms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Box: TypeAlias = "tuple[int, int, int, int]"
_Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

KEPT = 12
"""Frames that are looked at, at least where a video has them; at most twice as many."""
LEAST = 6
"""With fewer frames, or less motion than MOVING, nothing can be told from what merely stands still."""
MOVING = 0.5
"""Share of the pixels whose luma changes by more than 16 between any two of the frames."""
SIDE = 384
"""Pixels: the short side to which larger frames are reduced."""
EDGE = 12
"""Luma: the least mean step from one pixel to the next."""
STEP, STEADY = 6, 0.5
"""Luma: the least step of one frame, and the share of the frames that have it: text over a bright spot has less."""
DENSE = 0.12
"""Share of a window that must be edges of either sign."""
WINDOW = 5, 20
"""Pixels: height and width of a window, about three letters of the smallest text that can be read."""
LEAST_WINDOWS = 16
"""Dense windows of a region, side by side; marks and small symbols have fewer."""
_CELL = 4


@dataclass
class TextWatch:
    """Some stored frames of a video, evenly over its time whatever its length."""

    _kept: list[_Array] = field(default_factory=list)
    _seen: int = 0
    _stride: int = 1

    def add(self, image: Image.Image) -> None:
        """The next stored frame."""
        if self._seen % self._stride == 0:
            grey = image.convert("L")
            if (scale := SIDE / min(grey.size)) < 1:
                size = round(grey.width * scale), round(grey.height * scale)
                grey = grey.resize(size, Image.Resampling.BOX)
            self._kept.append(np.asarray(grey))
        self._seen += 1
        if len(self._kept) == 2 * KEPT:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def boxes(self, content: Box) -> list[Box]:
        """Where text seems to be: (left, top, width, height) in source pixels, for frames that show the `content` box
        of the source.
        """
        usual = [frame for frame in self._kept if frame.shape == self._kept[0].shape]
        if not usual:
            return []
        height, width = usual[0].shape
        found = find_text(usual)
        across, down = content[2] / width, content[3] / height
        return [
            (
                max(content[0], int(content[0] + (left - 1) * across)),
                max(content[1], int(content[1] + (top - 1) * down)),
                min(content[2], int((wide + 2) * across) + 1),
                min(content[3], int((tall + 2) * down) + 1),
            )
            for left, top, wide, tall in found
        ]


def advice(found: Sequence[tuple[str, str, Sequence[int]]]) -> str | None:
    """What to do about the text of some (video, source, boxes one after another), with lines for --masks; None where
    there is none.
    """
    names = [name for name, _, boxes in found if boxes]
    if not names:
        return None
    by_source: dict[str, list[Box]] = {}
    for _, source, flat in found:
        for at in range(0, len(flat), 4):
            _join(by_source.setdefault(source, []), (flat[at], flat[at + 1], flat[at + 2], flat[at + 3]))
    masks = [(source, [list(box) for box in sorted(boxes)]) for source, boxes in sorted(by_source.items()) if boxes]
    head = (
        f"text seems to be burned into {len(names)} of {len(found)} videos, such as {names[0]}: a name or a hospital "
        "may be read in stored frames. Look at them; --masks FILE blacks it out, with these lines in the file:"
    )
    return "\n".join([head, *(f"  {source}: {boxes}" for source, boxes in masks)])


def _join(boxes: list[Box], box: Box) -> None:
    """Add a box, made one with all that it touches."""
    touching = [b for b in boxes if all(b[i] <= box[i] + box[i + 2] and box[i] <= b[i] + b[i + 2] for i in (0, 1))]
    if not touching:
        boxes.append(box)
        return
    for other in touching:
        boxes.remove(other)
    parts = [box, *touching]
    left, top = (min(part[i] for part in parts) for i in (0, 1))
    right, bottom = (max(part[i] + part[i + 2] for part in parts) for i in (0, 1))
    _join(boxes, (left, top, right - left, bottom - top))


def find_text(frames: list[_Array]) -> list[Box]:
    """(left, top, width, height) of regions of text in uint8[height, width] luma frames, top to bottom."""
    if len(frames) < LEAST or min(frames[0].shape) < 2 * max(WINDOW):
        return []
    spread = np.maximum.reduce(frames).astype(np.int16) - np.minimum.reduce(frames)
    if np.count_nonzero(spread > 16) < MOVING * spread.size:
        return []
    total = np.zeros((spread.shape[0], spread.shape[1] - 1), np.int16)
    up, down = np.zeros(total.shape, np.uint8), np.zeros(total.shape, np.uint8)
    for frame in frames:
        step = np.diff(frame.astype(np.int16))
        total += step
        up += step >= STEP
        down += step <= -STEP
    often, enough = STEADY * len(frames), EDGE * len(frames)
    rising, falling = _sums((up >= often) & (total >= enough)), _sums((down >= often) & (-total >= enough))
    dense = np.minimum(rising, falling) > DENSE * WINDOW[0] * WINDOW[1]
    return sorted(_regions(dense), key=lambda box: (box[1], box[0]))


def _sums(flags: _Array) -> _Array:
    """Count in each window, by its upper left corner."""
    tall, wide = WINDOW
    total = np.pad(flags.cumsum(0, dtype=np.int32).cumsum(1), ((1, 0), (1, 0)))
    sums: _Array = total[tall:, wide:] - total[:-tall, wide:] - total[tall:, :-wide] + total[:-tall, :-wide]
    return sums


def _regions(dense: _Array) -> Iterable[Box]:
    """Boxes around windows that lie together, a gap between words or lines aside."""
    cells: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for top, left in np.argwhere(dense).tolist():
        cells.setdefault((top // _CELL, left // _CELL), []).append((top, left))
    while cells:
        place, members = cells.popitem()
        edge, region = [place], members
        while edge:
            row, column = edge.pop()
            for near in [(r, c) for r in range(row - 2, row + 3) for c in range(column - 5, column + 6)]:
                if near in cells:
                    region = region + cells.pop(near)
                    edge.append(near)
        if len(region) >= LEAST_WINDOWS:
            tops, lefts = zip(*region, strict=True)
            wide, tall = max(lefts) - min(lefts) + WINDOW[1] + 1, max(tops) - min(tops) + WINDOW[0]
            yield min(lefts), min(tops), wide, tall
