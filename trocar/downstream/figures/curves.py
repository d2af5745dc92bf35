"""Precision and recall of every class of a task with several labels a frame: tools, criteria, triplets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve

from trocar.downstream.figures.shown import ShownRun
from trocar.downstream.figures.style import colour, line, save, shortened
from trocar.downstream.metrics.outcome import Floats

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
