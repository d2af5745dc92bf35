"""Colours, hatches and text that all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trocar.core.files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (jfly.uni-koeln.de/color), told apart with any colour vision. Their black is a dark grey here, on which
# a hatch can be seen.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#4D4D4D")
LINES = ("-", "--", ":", "-.")
GREY = "#B0B0B0"
# More than eight hues cannot be told apart by everybody: the ninth class is the first colour with a hatch.
_HATCHES = ("", "////", "....", "xxxx", "----", "oo", "++", r"\\\\")
_DARK = ("#0072B2", "#4D4D4D", "#D55E00", "#009E73")
_DPI = 150


def colour(index: int) -> str:
    """Colour of class `index`; repeats after eight, see `hatch`."""
    return COLOURS[index % len(COLOURS)]


def hatch(index: int) -> str:
    """Hatch of class `index`: with the colour it is unique up to 64 classes."""
    return _HATCHES[index // len(COLOURS) % len(_HATCHES)]


def ink(index: int) -> str:
    """Colour of text or hatch on the colour of class `index`."""
    return "white" if colour(index) in _DARK else "black"


def line(index: int) -> str:
    """Style of a curve: changes with every class, so that two crossing curves differ by more than colour."""
    return LINES[index % len(LINES)]


def shortened(name: str, most: int = 28) -> str:
    """A class name with at most `most` characters: the middle of a long one is left out, names differ at their ends."""
    if len(name) <= most:
        return name
    tail = (most - 1) // 2
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"


def numbered(classes: Sequence[str], most: int = 28) -> list[str]:
    """`3 GallbladderDissection`: the number is what is written where the name has no place."""
    return [f"{i} {shortened(name, most)}" for i, name in enumerate(classes)]


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        # Tight: the layout engine cuts long tick labels off beside axes of fixed aspect.
        figure.savefig(file, dpi=_DPI, format="png", bbox_inches="tight", pad_inches=0.15)
    return path
