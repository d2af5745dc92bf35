"""Reliability diagrams: how often what was given so much probability is true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trocar.downstream.figures.shown import ShownRun
from trocar.downstream.figures.style import COLOURS, GREY, save, shortened
from trocar.downstream.metrics.calibration import BINS, bins_by_case
from trocar.downstream.metrics.outcome import Floats, Ints, Outcome, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 8


@dataclass(frozen=True)
class Bins:
    """Fifteen equal bins of 0..1: frames, mean probability and share that is true (NaN in an empty bin); `ece` as in
    `metrics.calibration`.
    """

    counts: Ints
    confidence: Floats
    accuracy: Floats
    ece: float


def bins(gt: Ints, scores: Floats) -> list[Bins]:
    """Of the most probable class for labels [n], of each class for [n, K]."""
    one_case = Outcome(gt, gt, scores, np.zeros(len(gt), dtype=np.int64))
    return [_bins(table) for table in bins_by_case(one_case)[0]]


def _bins(table: Floats) -> Bins:
    """From frames, summed probabilities and true frames [16, 3]; a probability of exactly 1, which has a bin of its own
    there, is drawn with the last.
    """
    n = table[:, 0].sum()
    ece = float(np.abs(table[:, 2] - table[:, 1]).sum() / n)
    drawn = np.vstack([table[: BINS - 1], table[BINS - 1 :].sum(0)])
    confidence, accuracy = ratio(drawn[:, 1], drawn[:, 0]), ratio(drawn[:, 2], drawn[:, 0])
    return Bins(drawn[:, 0].astype(np.int64), confidence, accuracy, ece)


def draw_reliability(shown: ShownRun, path: Path) -> Path:
    """One label a frame: the most probable class. Several: each class; of more than eight, the eight with the most
    positives. Below each diagram the frames per bin, on a logarithmic scale.
    """
    from matplotlib.figure import Figure

    panels = _panels(shown)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(5.2, 3.5 * columns), 5.2 * rows + 0.4), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 1.2] * rows)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
        if place < len(panels):
            _panel(upper, lower, *panels[place])
            if place == 0:
                upper.legend(fontsize=7, loc="upper left", frameon=False)
        else:
            upper.axis("off")
            lower.axis("off")
    figure.suptitle(_title(shown), fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def _panels(shown: ShownRun) -> list[tuple[str, Bins]]:
    found = bins(shown.gt, shown.scores)
    if shown.single:
        return [("most probable class", found[0])]
    frequent = np.argsort(-shown.gt.sum(0), kind="stable")[:MOST_PANELS]
    return [(shown.classes[k], found[k]) for k in sorted(frequent.tolist())]


def _title(shown: ShownRun) -> str:
    if shown.single or len(shown.classes) <= MOST_PANELS:
        return shown.title
    return f"{shown.title}\nthe {MOST_PANELS} of {len(shown.classes)} classes with the most positive frames"


def _panel(upper: Axes, lower: Axes, name: str, found: Bins) -> None:
    left, width = np.arange(BINS) / BINS, 1 / BINS
    upper.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="calibrated")
    bars: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white"}
    upper.bar(left, found.accuracy, color=COLOURS[4], label="share that is true", **bars)
    upper.plot(found.confidence, found.accuracy, "o", color=COLOURS[5], ms=4, label="at the bin's mean", clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is true")
    title = f"{shortened(name, 34)}\nECE {found.ece:.3f}, {found.counts.sum():,} frames"
    upper.set_title(title, fontsize=9, loc="left")
    lower.bar(left, found.counts, color=GREY, log=True, **bars)
    for x, count in zip(left + width / 2, found.counts, strict=True):
        if count:
            lower.text(x, count * 1.25, f"{count:,}", rotation=90, fontsize=6, ha="center", va="bottom")
    lower.set(xlim=(0, 1), ylim=(0.7, max(found.counts.max(), 1) * 60), xlabel="probability", ylabel="frames")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
