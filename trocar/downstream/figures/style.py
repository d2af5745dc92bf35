"""Which predictions a figure is made of, and the colours, hatches and text that all figures share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trocar.core.files import writing
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.predictions.prediction_file import RunIndex

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


_KINDS = ("backbone", "random", "baseline", "majority")


@dataclass(frozen=True)
class ShownRun:
    """One run of one arm on one task: its rows in the order of time, and what is said about it.

    `gt` and `pred` are class indices [n], or 0 and 1 per class [n, K]; `scores` is [n, K], NaN where only labels are
    known.
    """

    task: str
    backbone: str
    protocol: str
    run: str
    classes: tuple[str, ...]
    rows: pd.DataFrame
    gt: Ints
    pred: Ints
    scores: Floats

    @property
    def single(self) -> bool:
        """One label a frame."""
        return self.gt.ndim == 1

    @property
    def has_probabilities(self) -> bool:
        """Whether the scores can be probabilities: all in 0..1."""
        return bool(((self.scores >= 0) & (self.scores <= 1 + 1e-6)).all())

    @property
    def title(self) -> str:
        """What is shown."""
        return f"{self.task} · {self.backbone} · {self.protocol}{self.run}"


def shown(predictions: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[ShownRun]:
    """The first run of every backbone and protocol on every task with labels per frame.

    Of the arms only the backbones that were asked for; where there are none the best informed baselines. Masks have
    no rows that could be drawn here.
    """
    kept = _of_first_kind(predictions)
    for key, rows in kept.groupby(["task", "backbone", "protocol"], sort=False):
        task, backbone, protocol = (str(part) for part in key)
        runs = [part for _, part in rows.groupby(list(RunIndex._fields), sort=False)]
        run = f" · run 1 of {len(runs)}" if len(runs) > 1 else ""
        first = _in_time_order(runs[0])
        found = _labels(first)
        if found is not None:
            classes = tuple(str(name) for name in tasks[task]["classes"])
            yield ShownRun(task, backbone, protocol, run, classes, first, *found)


def _of_first_kind(predictions: pd.DataFrame) -> pd.DataFrame:
    here = set(predictions["kind"])
    kind = next((kind for kind in _KINDS if kind in here), None)
    kept: pd.DataFrame = predictions[predictions["kind"] == kind]
    return kept


def _in_time_order(rows: pd.DataFrame) -> pd.DataFrame:
    ordered: pd.DataFrame = rows.sort_values(["case", "video", "time_s"], kind="stable", ignore_index=True)
    return ordered


def _labels(rows: pd.DataFrame) -> tuple[Ints, Ints, Floats] | None:
    if not {"gt", "gt_labels"} <= set(rows.columns):  # a table of masks alone
        return None
    if rows["gt"].notna().all():
        gt, pred = rows["gt"].to_numpy(np.int64), rows["pred"].to_numpy(np.int64)
    elif rows["gt_labels"].notna().all():
        gt, pred = _stacked(rows["gt_labels"]).astype(np.int64), _stacked(rows["pred_labels"]).astype(np.int64)
    else:
        return None
    return gt, pred, _stacked(rows["scores"])


def _stacked(values: Sequence[Any] | pd.Series) -> Floats:
    return np.stack([np.asarray(value, dtype=np.float64) for value in values])
