"""Training curves as inline SVG whose colours follow the page (light, dark, print)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trocar.report.svg import INK, LINE, REFERENCE, drawing, plain_axes, to_svg
from trocar.runs.step_metrics import judged_loss

_FLAT = "A loss that stays on ln K has collapsed to uniform outputs."
MAX_POINTS = 600


@dataclass(frozen=True)
class Panel:
    """One small diagram. `reference` is a horizontal line and its label; `scale` multiplies the values."""

    key: str
    title: str
    note: str
    unit: str = ""
    scale: float = 1.0
    reference: tuple[float, str] | None = None
    from_zero: bool = False
    wide: bool = False


def panels(metrics: Sequence[Mapping[str, Any]], uniform_loss: float | None) -> list[Panel]:
    """The panels for what was logged: the known metrics in a fixed order, then all others by name."""
    uniform = (uniform_loss, f"ln K = {uniform_loss:.2f}") if uniform_loss is not None else None
    logged = {key for row in metrics for key in row} - {"step"}
    judged = judged_loss(dict.fromkeys(logged))
    known = [
        Panel("loss", "Loss", _FLAT if judged == "loss" else "The sum of all losses.", wide=True),
        Panel("dino_loss", "DINO loss", _FLAT, wide=True),
        Panel(
            "teacher_entropy", "Teacher entropy", "ln K: uniform. 0: one prototype for all images.", reference=uniform
        ),
        Panel("feature_std", "Feature std", "1: directions spread evenly. 0: one point.", from_zero=True),
        Panel("rankme", "RankMe", "Effective rank of the features of one batch; comparable at equal batch only."),
        Panel("lr", "Learning rate", "Of the first parameter group, after warm-up and decay."),
        Panel(
            "images_per_s",
            "Images per second",
            "All ranks together, over the steps since the last log.",
            from_zero=True,
        ),
        Panel("data_wait", "Waiting for data", "Share of the time; above 10 %, add workers.", "%", 100, None, True),
        Panel("device_wait", "GPU waiting for data", "Share of the time, of rank 0's GPU.", "%", 100, None, True),
        Panel("peak_memory_mib", "Peak GPU memory", "MiB that torch had allocated on rank 0's GPU.", from_zero=True),
        Panel("grad_norm", "Gradient norm", "Before clipping."),
    ]
    known = [replace(panel, reference=uniform) if panel.key == judged else panel for panel in known]
    names = {panel.key for panel in known}
    return [p for p in known if p.key in logged] + [Panel(key, key, "") for key in sorted(logged - names)]


def draw(panel: Panel, metrics: Sequence[Mapping[str, Any]], resumes: Sequence[int] = ()) -> str:
    """The panel as an `<svg>` element. Non-finite values are gaps; `resumes` are marked by dotted lines."""
    from matplotlib.figure import Figure

    step, value = series(metrics, panel.key)
    with drawing(panel.key):
        figure = Figure(figsize=(7.5 if panel.wide else 3.6, 1.9), layout="constrained")
        axes = figure.subplots()
        axes.plot(*thin(step, value * panel.scale), color=LINE, linewidth=1.6, marker="." if len(step) < 3 else "")
        for start in resumes:
            axes.axvline(start, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        if panel.reference is not None:
            _reference_line(axes, *panel.reference)
        _style(axes, panel)
        return to_svg(figure)


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(steps, values) float64 of the rows that have `key`; infinities become NaN, which is drawn as a gap."""
    rows = [(row["step"], row[key]) for row in metrics if key in row]
    step, value = np.array(rows, np.float64).reshape(-1, 2).T
    return step, np.where(np.isfinite(value), value, np.nan)


def thin(step: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """At most MAX_POINTS points: of each bin the lowest and the highest value, so that no spike is lost."""
    if len(step) <= MAX_POINTS:
        return step, value
    keep: set[int] = {0, len(step) - 1}
    for part in np.array_split(np.arange(len(step)), MAX_POINTS // 2):
        finite = part[~np.isnan(value[part])]
        keep |= (
            {int(finite[value[finite].argmin()]), int(finite[value[finite].argmax()])} if len(finite) else {*part[:1]}
        )
    index = np.array(sorted(keep))
    return step[index], value[index]


def _reference_line(axes: Any, level: float, label: str) -> None:
    axes.axhline(level, color=REFERENCE, linewidth=1.2, linestyle=(0, (5, 3)))
    # Above the diagram: beside the line it would hide the curve where the two meet.
    axes.annotate(f"- - {label}", (1, 1.02), xycoords="axes fraction", ha="right", va="bottom", color=REFERENCE, size=8)


def _style(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    plain_axes(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.02, y=0.14)
    if panel.from_zero:
        axes.set_ylim(0.0, max(axes.get_ylim()[1], 1e-9))
    if panel.unit:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} {panel.unit}")
