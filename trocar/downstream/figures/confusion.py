"""Confusion matrices: rows are the ground truth and sum to one hundred per cent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import confusion_matrix

from trocar.downstream.figures.shown import ShownRun
from trocar.downstream.figures.style import numbered, save, shortened
from trocar.downstream.metrics.outcome import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITH_COUNTS, WITH_SHARES = 12, 24
"""Up to so many classes a cell has its share and count, its share alone; beyond that only shares from 10 % are written.
"""


def row_shares(counts: Ints) -> Floats:
    """Counts [K, K] -> shares of each row; NaN in the row of a class that does not occur."""
    total = counts.sum(1, keepdims=True)
    shares: Floats = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return shares


def draw_confusion(shown: ShownRun, path: Path) -> Path:
    """Write the row-normalised matrix with counts; the row of a class that does not occur is grey."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    count = len(shown.classes)
    counts = confusion_matrix(shown.gt, shown.pred, labels=range(count)).astype(np.int64)
    cell = 0.78 if count <= WITH_COUNTS else 0.44 if count <= WITH_SHARES else 0.34
    figure = Figure(figsize=(4.4 + cell * count, 2.8 + cell * count), layout="constrained")
    axes = figure.subplots()
    shades = colormaps["Blues"].with_extremes(bad="#D0D0D0")
    image = axes.imshow(row_shares(counts), vmin=0, vmax=1, cmap=shades)
    _cells(axes, counts)
    _names(axes, shown.classes, counts)
    axes.set_title(shortened(shown.title, 90), fontsize=9, loc="left")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return save(figure, path)


def _cells(axes: Axes, counts: Ints) -> None:
    size = len(counts)
    least = 0.0 if size <= WITH_SHARES else 0.1
    for (row, column), share in np.ndenumerate(row_shares(counts)):
        if np.isnan(share) or share < least or counts[row, column] == 0:
            continue
        text = f"{100 * share:.0f}"
        if size <= WITH_COUNTS:
            text = f"{100 * share:.0f} %\n{counts[row, column]:,}"
        ink = "white" if share > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7 if size <= WITH_SHARES else 6, color=ink)


def _names(axes: Axes, classes: tuple[str, ...], counts: Ints) -> None:
    names = numbered(classes)
    rows = [f"{name} (n = {n:,})" for name, n in zip(names, counts.sum(1), strict=True)]
    axes.set_yticks(range(len(names)), rows, fontsize=8)
    if len(names) <= WITH_COUNTS:
        columns = [f"{name} ({n:,})" for name, n in zip(names, counts.sum(0), strict=True)]
        axes.set_xticks(range(len(names)), columns, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(range(len(names)), [str(i) for i in range(len(names))], fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(names)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
