"""Phase ribbons: ground truth above prediction, every test case, in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trocar.downstream.figures.shown import ShownRun
from trocar.downstream.figures.style import colour, hatch, ink, numbered, save, shortened
from trocar.downstream.metrics.outcome import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
