"""Reliability diagrams: how often what was given so much probability is true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trocar.downstream.figures.shown import Shown
from trocar.downstream.figures.style import COLOURS, GREY, save, shortened
from trocar.downstream.metrics.outcome import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 15
MOST_PANELS = 8


@dataclass(frozen=True)
class Bins:
    """Fifteen equal bins of 0..1: frames, mean probability and share that is true; NaN in an empty bin."""

    counts: Ints
    confidence: Floats
    accuracy: Floats

    @property
    def ece(self) -> float:
        """Expected calibration error: |accuracy - confidence| weighted by frames (Guo et al., arXiv:1706.04599)."""
        used = self.counts > 0
        gap = np.abs(self.accuracy[used] - self.confidence[used])
        return float((gap * self.counts[used]).sum() / self.counts.sum())


def bins(probability: Floats, true: npt.NDArray[np.bool_]) -> Bins:
    """Bin k of 15 holds k / 15 < p <= (k + 1) / 15, the first also 0."""
    place = np.clip(np.ceil(probability * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = [np.bincount(place, weights=values.astype(np.float64), minlength=BINS) for values in (probability, true)]
    confidence, accuracy = (np.divide(s, counts, out=np.full(BINS, np.nan), where=counts > 0) for s in sums)
    return Bins(counts, confidence, accuracy)


def draw_reliability(shown: Shown, path: Path) -> Path:
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


def _panels(shown: Shown) -> list[tuple[str, Bins]]:
    if shown.single:
        return [("most probable class", bins(shown.scores.max(1), shown.scores.argmax(1) == shown.gt))]
    frequent = np.argsort(-shown.gt.sum(0), kind="stable")[:MOST_PANELS]
    return [(shown.classes[k], bins(shown.scores[:, k], shown.gt[:, k] == 1)) for k in sorted(frequent.tolist())]


def _title(shown: Shown) -> str:
    if shown.single or len(shown.classes) <= MOST_PANELS:
        return shown.title
    return f"{shown.title}\nthe {MOST_PANELS} of {len(shown.classes)} classes with the most positive frames"


def _panel(upper: Axes, lower: Axes, name: str, found: Bins) -> None:
    left, width = np.arange(BINS) / BINS, 1 / BINS
    upper.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="calibrated")
    bars: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white"}
    upper.bar(left, found.accuracy, color=COLOURS[4], label="share that is true", **bars)
    upper.plot(found.confidence, found.accuracy, "o", color=COLOURS[5], markersize=4, label="at the bin's mean")
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
