"""Diagrams as inline SVG whose colours follow the page: light, dark, print.

A dot with its interval as a small inline picture, for tables.

Training curves as inline SVG whose colours follow the page (light, dark, print).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trocar.runs.step_metrics import judged_loss

# matplotlib needs real colours; these never occur otherwise and are replaced by the page's own.
INK, LINE, REFERENCE, GRID = "#010203", "#010204", "#010205", "#010206"
SERIES = tuple(f"#0102{number:02x}" for number in range(16, 24))
"""Colours of several curves in one diagram, told apart with any colour vision."""
_CSS = {INK: "var(--muted)", LINE: "var(--series)", REFERENCE: "var(--reference)", GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Settings of every diagram. `salt` must differ between diagrams of one page: ids follow from it. A dollar sign in
    a name is a dollar sign.
    """
    import matplotlib

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9, "text.parse_math": False}
    ):
        yield


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element as wide as its place on the page. Call it within `drawing`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue())


def plain_axes(axes: Any) -> None:
    """Two thin spines, a light grid, small labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(which="both", colors=INK, color=GRID, labelsize=8, length=3)
    axes.grid(axis="y", color=GRID, linewidth=0.6)


def _themed(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([^;\"]*?)'[^'\"]*'(, '[^'\"]*')*(, sans-serif)?", r"font: \1sans-serif", svg)
    # Several drawings share the page: only ids that something refers to may stay, and those are salted per
    # panel.
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match.group(0) if match.group(1) in used else "", svg)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    return svg


WIDTH = 180


def scale_of(values: Iterable[float]) -> tuple[float, float]:
    """The ends of a scale that holds all values that are finite, with a margin."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def bar(value: float | None, interval: Sequence[float] | None, scale: tuple[float, float], zero: bool = False) -> str:
    """An `<svg>` with a dot at `value` and a bar over `interval`, on one scale for a whole table; `zero` marks 0. Empty
    without a value.
    """
    if value is None or not math.isfinite(value):
        return ""

    def at(number: float) -> float:
        return WIDTH * (number - scale[0]) / (scale[1] - scale[0])

    line, text = "", f"{value:.3f}"
    if interval and all(map(math.isfinite, interval)):
        low, high = interval
        line = f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="9" y2="9"/>'
        text += f", 95 % interval {low:.3f} to {high:.3f}"
    mark = f'<path class="zero" d="M{at(0):.1f} 1V17"/>' if zero and scale[0] < 0 < scale[1] else ""
    return (
        f'<svg viewBox="0 0 {WIDTH} 18" width="{WIDTH}" height="18" role="img" aria-label="{text}">'
        f'<title>{text}</title><path d="M0 9H{WIDTH}"/>{mark}{line}'
        f'<circle cx="{at(value):.1f}" cy="9" r="4.5"/></svg>'
    )


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
