"""Figures of probabilities: precision and recall of every class, and reliability diagrams.

Precision and recall are of tasks with several labels a frame: tools, criteria, triplets. Reliability diagrams say how
often what was given so much probability is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve

from trocar.downstream.figures.style import COLOURS, GREY, ShownRun, colour, line, save, shortened
from trocar.downstream.metrics.calibration import BINS, bins_by_case
from trocar.downstream.metrics.outcome import Floats, Ints, Outcome, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes


IN_ONE, AT_EACH_END = 10, 6


@dataclass(frozen=True)
class Curve:
    """One class over all test frames together: average precision, positives, share of positives."""

    name: str
    ap: float
    positives: int
    chance: float
    precision: Floats
    recall: Floats


def curves(shown: ShownRun) -> list[Curve]:
    """Curves of the classes that occur; average precision as scikit-learn has it, not interpolated."""
    found = []
    for name, gt, scores in zip(shown.classes, shown.gt.T, shown.scores.T, strict=True):
        if not gt.any() or np.isnan(scores).any():
            continue
        precision, recall, _ = precision_recall_curve(gt, scores)
        ap = float(average_precision_score(gt, scores))
        found.append(Curve(name, ap, int(gt.sum()), float(gt.mean()), precision, recall))
    return found


def draw_curves(shown: ShownRun, path: Path) -> list[Path]:
    """Up to ten classes in one panel; of more, the six best and the six worst by average precision side by side."""
    from matplotlib.figure import Figure

    found = curves(shown)
    if not found:
        return []
    panels = _panels(found, len(shown.classes) - len(found))
    most = max(len(panel) for _, panel in panels)
    figure = Figure(figsize=(6.2 * len(panels), 5.6 + 0.22 * most), layout="constrained")
    for axes, (said, panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, said, panel)
    mean = np.mean([curve.ap for curve in found])
    title = f"{shown.title}\nmean AP of {len(found)} classes that occur: {mean:.3f}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return [save(figure, path)]


def _panels(found: Sequence[Curve], absent: int) -> list[tuple[str, list[Curve]]]:
    without = f" ({absent} do not occur)" if absent else ""
    if len(found) <= max(IN_ONE, 2 * AT_EACH_END):
        return [(f"all {len(found)} classes{without}", list(found))]
    ranked = sorted(found, key=lambda curve: -curve.ap)
    best, worst = ranked[:AT_EACH_END], ranked[-AT_EACH_END:]
    return [(f"best {len(best)} of {len(found)}{without}", best), (f"worst {len(worst)} of {len(found)}", worst)]


def _panel(axes: Axes, said: str, panel: list[Curve]) -> None:
    for place, curve in enumerate(panel):
        label = f"{shortened(curve.name, 40)}: AP {curve.ap:.3f} (n = {curve.positives:,}, chance {curve.chance:.2g})"
        (drawn,) = axes.plot(curve.recall, curve.precision, drawstyle="steps-post", label=label, linewidth=1.8)
        drawn.set(color=colour(place), linestyle=line(place + place // 8))
    axes.set(xlim=(0, 1), ylim=(0, _top(panel)), xlabel="recall", ylabel="precision")
    axes.set_box_aspect(1)
    axes.grid(color="#E5E5E5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(said, fontsize=9, loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=8, frameon=False, handlelength=3.5)


def _top(panel: list[Curve]) -> float:
    """End of the precision axis: curves that all lie at the bottom get an axis on which they can be seen. The last
    point of a curve is (0, 1) by convention and shows nothing.
    """
    highest = max(float(curve.precision[:-1].max()) for curve in panel)
    return 1.02 if highest > 0.5 else 1.1 * highest


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

    panels = _reliability_panels(shown)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(5.2, 3.5 * columns), 5.2 * rows + 0.4), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 1.2] * rows)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
        if place < len(panels):
            _reliability_panel(upper, lower, *panels[place])
            if place == 0:
                upper.legend(fontsize=7, loc="upper left", frameon=False)
        else:
            upper.axis("off")
            lower.axis("off")
    figure.suptitle(_title(shown), fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def _reliability_panels(shown: ShownRun) -> list[tuple[str, Bins]]:
    found = bins(shown.gt, shown.scores)
    if shown.single:
        return [("most probable class", found[0])]
    frequent = np.argsort(-shown.gt.sum(0), kind="stable")[:MOST_PANELS]
    return [(shown.classes[k], found[k]) for k in sorted(frequent.tolist())]


def _title(shown: ShownRun) -> str:
    if shown.single or len(shown.classes) <= MOST_PANELS:
        return shown.title
    return f"{shown.title}\nthe {MOST_PANELS} of {len(shown.classes)} classes with the most positive frames"


def _reliability_panel(upper: Axes, lower: Axes, name: str, found: Bins) -> None:
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
