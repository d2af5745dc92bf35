"""Contact sheets: a page of small pictures, spread over what there is, as dense as the page allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Ints = npt.NDArray[np.int64]
Colour = tuple[int, int, int]

COLUMNS, ROWS = 8, 12
CELL, TALL, LINE = 160, 112, 12
"""Pixels: width and height of a picture, height of a line of its caption."""
_LETTERS = 26  # of Pillow's own font in a cell
_RED: Colour = (200, 30, 30)


@dataclass(frozen=True)
class Cell:
    """A picture, the line above it (where it is of a new group), the line below it, and whether it is flagged."""

    image: Image.Image
    group: str
    caption: str
    flagged: bool = False


@dataclass(frozen=True)
class Groups:
    """Rows that belong together (a case's, a source's cases'), by name, in order."""

    members: Mapping[str, Groups] = field(default_factory=dict)
    rows: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.rows) + sum(map(len, self.members.values()))

    def pick(self, count: int) -> list[int]:
        """At most `count` rows: as many of each member as of the others as far as it has them; of rows evenly."""
        if not self.members:
            count = min(count, len(self.rows))
            evenly = ((np.arange(count) + 0.5) * len(self.rows) / max(1, count)).astype(np.int64)
            return [int(row) for row in self.rows[evenly]]
        parts = list(self.members.values())
        shares = fair_shares([len(part) for part in parts], count)
        return [row for part, share in zip(parts, shares, strict=True) for row in (part.pick(share) if share else ())]


def fair_shares(sizes: Sequence[int], total: int) -> list[int]:
    """How much of `total` each of some groups gets: equally much, as far as a group has it.

    What is left after the last round for all goes to groups evenly over the list.
    """
    room, given = np.array(sizes, np.int64), np.zeros(len(sizes), np.int64)
    left = min(total, int(room.sum()))
    while left:
        wanting = np.flatnonzero(given < room)
        if left < len(wanting):
            wanting = wanting[((np.arange(left) + 0.5) * len(wanting) / left).astype(int)]
        step = max(1, min(left // len(wanting), int((room - given)[wanting].min())))
        given[wanting] += step
        left -= step * len(wanting)
    return [int(share) for share in given]


def draw_sheet(cells: Sequence[Cell], legend: Sequence[tuple[str, Colour]] = ()) -> Image.Image:
    """RGB page of the cells in reading order, with a red bar under flagged ones, and a legend of colours below."""
    height = TALL + 2 * LINE + 4
    lines = -(-len(cells) // COLUMNS)
    below = LINE * 2 * -(-len(legend) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, max(1, lines) * height + below), "white")
    draw = ImageDraw.Draw(sheet)
    group = None
    for place, cell in enumerate(cells):
        left, top = place % COLUMNS * CELL, place // COLUMNS * height
        if cell.group != group or place % COLUMNS == 0:
            draw.text((left + 2, top), cell.group[:_LETTERS], fill=(0, 0, 120))
            group = cell.group
        image = cell.image.copy()
        image.thumbnail((CELL - 2, TALL))
        sheet.paste(image, (left, top + LINE))
        if cell.flagged:
            draw.rectangle((left, top + LINE + TALL, left + CELL - 3, top + LINE + TALL + 2), fill=_RED)
        where = left + 2, top + LINE + TALL + 3
        draw.text(where, cell.caption[:_LETTERS], fill=(160, 0, 0) if cell.flagged else (0, 0, 0))
    for place, (name, colour) in enumerate(legend):
        left, top = place % COLUMNS * CELL, lines * height + place // COLUMNS * 2 * LINE
        draw.rectangle((left + 2, top + 3, left + LINE, top + LINE + 1), fill=colour)
        draw.text((left + LINE + 4, top + 2), name[: _LETTERS - 3], fill=(0, 0, 0))
    return sheet
