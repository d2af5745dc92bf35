"""Learning curves and scaling as inline SVG in the page's colours."""

from __future__ import annotations

from typing import Any

import numpy as np

from trocar.report.charts import INK, SERIES, drawing, plain_axes, to_svg
from trocar.study.report.analysis import Compared
from trocar.study.statistics.scaling import PowerLaw, Scaling

LINES = ("-", "--", ":", "-.")
MARKS = "osD^vPX*"
SPREAD = 0.06  # of the axis, from the first arm to the last one at a budget


def learning_curves(one: Compared) -> str:
    """Score over labelled cases, one line per arm; arms are drawn a little apart."""
    from matplotlib.figure import Figure

    with drawing(f"labels-{one.name}"):
        figure = Figure(figsize=(7.5, 3.0 + 0.2 * (len(one.curves) // 3)), layout="constrained")
        axes = figure.subplots()
        sizes = sorted({size for curve in one.curves for size in curve.labelled})
        shifts = np.linspace(-SPREAD / 2, SPREAD / 2, len(one.curves)) if one.curves[1:] else np.zeros(1)
        for place, curve in enumerate(one.curves):
            x = np.array(curve.labelled) * (sizes[-1] / sizes[0]) ** shifts[place]
            value, low, high = (np.array([getattr(p, end) for p in curve.points]) for end in ("value", "low", "high"))
            _points(axes, x, value, low, high, place, curve.arm)
            axes.plot(x, value, color=_colour(place), linestyle=_line(place), linewidth=1.6)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("labelled cases", color=INK, fontsize=8)
        plain_axes(axes)
        _legend(figure)
        return to_svg(figure)


def scaling_chart(found: Scaling, metric: str, bounds: tuple[float, float], salt: str) -> str:
    """Points with intervals over the number of cases, and the power law with its band, dotted where it extrapolates.
    Intervals are cut to the `bounds` of the metric.
    """
    from matplotlib.figure import Figure

    with drawing(salt):
        figure = Figure(figsize=(7.5, 2.8), layout="constrained")
        axes = figure.subplots()
        x = np.array(found.sizes)
        value, low, high = (np.array([getattr(p, end) for p in found.points]) for end in ("value", "low", "high"))
        _points(axes, x, value, low.clip(*bounds), high.clip(*bounds), 0, "")
        if found.law is not None:
            _law(axes, found.law, bounds)
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{size:g}" for size in x])
        axes.minorticks_off()
        axes.set_xlabel("cases", color=INK, fontsize=8)
        axes.set_ylabel(metric, color=INK, fontsize=8)
        plain_axes(axes)
        return to_svg(figure)


def _law(axes: Any, law: PowerLaw, bounds: tuple[float, float]) -> None:
    at, curve, end = np.array(law.at), np.array(law.curve), (law.largest, law.predict(law.largest))
    inside = at < law.largest
    axes.plot([*at[inside], end[0]], [*curve[inside], end[1]], color=_colour(0), linewidth=1.6)
    axes.plot([end[0], *at[~inside]], [end[1], *curve[~inside]], color=_colour(0), linewidth=1.6, linestyle=":")
    low, high = np.clip([law.low, law.high], *bounds)
    axes.fill_between(at, low, high, color=_colour(0), alpha=0.15, linewidth=0)


def _points(axes: Any, x: Any, value: Any, low: Any, high: Any, place: int, label: str) -> None:
    known = np.isfinite(low) & np.isfinite(high)
    axes.vlines(x[known], low[known], high[known], color=_colour(place), linewidth=1.2, alpha=0.7)
    mark = MARKS[place % len(MARKS)]
    axes.plot(x, value, color=_colour(place), marker=mark, markersize=5, linestyle="", label=label or None)


def _legend(figure: Any) -> None:
    names = figure.axes[0].get_legend_handles_labels()[1]
    columns = 4 if max(map(len, names)) < 20 else 2
    legend = figure.legend(loc="outside lower left", ncols=columns, fontsize=8, frameon=False, handlelength=1.2)
    for text in legend.get_texts():
        text.set_color(INK)


def _colour(place: int) -> str:
    return SERIES[place % len(SERIES)]


def _line(place: int) -> str:
    return LINES[place // len(SERIES) % len(LINES)]
