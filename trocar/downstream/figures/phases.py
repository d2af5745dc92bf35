"""Figures of tasks with one label a frame: confusion matrices, and ribbons of phases in time.

The rows of a confusion matrix are the ground truth and sum to one hundred per cent. A ribbon shows the ground truth
above the prediction, for every test case.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from trocar.downstream.figures.style import ShownRun, colour, hatch, ink, numbered, save, shortened
from trocar.downstream.metrics.outcome import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


PER_PAGE = 14
_GAP = 2.5  # a hole of more than so many label periods is left white
_WIDE_ENOUGH = 0.022  # of the axis, for the number of a class


def draw_ribbons(shown: ShownRun, out: Path, stem: str) -> list[Path]:
    """One PNG per 14 cases. Time runs through the videos of a case; frames without a label are white.

    All pages have the time axis of the longest case.
    """
    cases = [rows for _, rows in shown.rows.groupby("case", sort=True)]
    pages = [cases[i : i + PER_PAGE] for i in range(0, len(cases), PER_PAGE)]
    period = _period(shown.rows)
    longest = max(_minutes(rows, period)[-1] for rows in cases) + period / 60
    paths = []
    for number, page in enumerate(pages, start=1):
        figure = _page(shown, page, period, longest, f" · page {number} of {len(pages)}" if len(pages) > 1 else "")
        paths.append(save(figure, out / f"{stem}-ribbons{f'-{number:02d}' if len(pages) > 1 else ''}.png"))
    return paths


def runs(labels: Ints, minutes: Floats, period: float) -> Iterator[tuple[float, float, int]]:
    """(start, length, class) in minutes of the maximal runs of one label without a hole."""
    step = period / 60
    breaks = np.flatnonzero((np.diff(labels) != 0) | (np.diff(minutes) > _GAP * step)) + 1
    for rows in np.split(np.arange(len(labels)), breaks):
        start, end = minutes[rows[0]], minutes[rows[-1]] + step
        follows = rows[-1] + 1 < len(labels) and minutes[rows[-1] + 1] - minutes[rows[-1]] <= _GAP * step
        yield float(start), float((minutes[rows[-1] + 1] if follows else end) - start), int(labels[rows[0]])


def _page(shown: ShownRun, cases: list[pd.DataFrame], period: float, longest: float, page: str) -> Figure:
    from matplotlib.figure import Figure

    legend_rows = -(-len(shown.classes) // 4)
    figure = Figure(figsize=(11, 0.5 * len(cases) + 1.5 + 0.24 * legend_rows), layout="constrained")
    axes = figure.subplots()
    for place, rows in enumerate(cases):
        _case(axes, place, shown, rows, period, longest)
    axes.set_yticks(np.arange(len(cases)), [shortened(str(rows["case"].iloc[0])) for rows in cases], fontsize=8)
    axes.text(1.005, -0.62, "accuracy", fontsize=7, va="bottom", transform=axes.get_yaxis_transform())
    axes.set(xlim=(0, longest), ylim=(len(cases) - 0.5, -0.5), xlabel="minutes")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title(f"{shown.title}{page}\nabove the truth, below the prediction", fontsize=9, loc="left")
    _legend(figure, shown.classes)
    return figure


def _case(axes: Axes, place: int, shown: ShownRun, rows: pd.DataFrame, period: float, longest: float) -> None:
    index, minutes = rows.index.to_numpy(), _minutes(rows, period)
    gt, pred = shown.gt[index], shown.pred[index]
    for labels, top, height in ((gt, place - 0.38, 0.34), (pred, place - 0.02, 0.34)):
        _band(axes, list(runs(labels, minutes, period)), top, height, longest)
    text = f"{100 * np.mean(gt == pred):.0f} %"
    axes.text(1.005, place, text, fontsize=8, va="center", transform=axes.get_yaxis_transform())


def _band(axes: Axes, found: list[tuple[float, float, int]], top: float, height: float, longest: float) -> None:
    for label in sorted({label for *_, label in found}):
        spans = [(start, length) for start, length, each in found if each == label]
        axes.broken_barh(
            spans, (top, height), facecolors=colour(label), hatch=hatch(label), edgecolor=ink(label), linewidth=0
        )
    for start, length, label in found:
        if length > _WIDE_ENOUGH * longest:
            box = {"facecolor": colour(label), "edgecolor": "none", "pad": 0.8} if hatch(label) else None
            axes.text(
                start + length / 2, top + height / 2, str(label), fontsize=7, ha="center", va="center",
                color=ink(label), bbox=box,
            )  # fmt: skip


def _minutes(rows: pd.DataFrame, period: float) -> Floats:
    """Minutes since the beginning of the operation: the videos of a case one behind the other."""
    time = rows["time_s"].to_numpy(np.float64)
    begins = np.flatnonzero(rows["video"].to_numpy(str)[1:] != rows["video"].to_numpy(str)[:-1]) + 1
    moved: Floats = time.copy()
    for begin in begins:
        moved[begin:] += moved[begin - 1] + period - moved[begin]
    moved /= 60
    return moved


def _period(rows: pd.DataFrame) -> float:
    """Seconds between two labels: the median of what is between neighbours, 1 where every video has one frame."""
    steps = rows.groupby(["case", "video"], sort=False)["time_s"].diff().to_numpy(np.float64)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 1.0


def _legend(figure: Figure, classes: tuple[str, ...]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour(i), hatch=hatch(i), edgecolor=ink(i), linewidth=0, label=name)
        for i, name in enumerate(numbered(classes, 34))
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(4, len(patches)), fontsize=8, frameon=False)
