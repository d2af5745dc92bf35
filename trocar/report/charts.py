"""Diagrams as inline SVG whose colours follow the page, light, dark and print: intervals, training curves, learning
curves, scaling.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from trocar.runs.run_folder import judged_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trocar.study.statistics.scaling import LearningCurve, PowerLaw, Scaling

# matplotlib needs real colours; these never occur otherwise and are replaced by the page's own.
INK, LINE, REFERENCE, GRID = "#010203", "#010204", "#010205", "#010206"
SERIES = tuple(f"#0102{number:02x}" for number in range(16, 24))
"""Colours of several curves in one diagram, told apart with any colour vision."""
_CSS = {INK: "var(--muted)", LINE: "var(--series)", REFERENCE: "var(--reference)", GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
LINES = ("-", "--", ":", "-.")
MARKS = "osD^vPX*"
SPREAD = 0.06  # of the axis of learning curves, from the first arm to the last one at a budget
BAR_WIDTH = 180  # pixels
MAX_POINTS = 600
"""Of a training curve."""
_FLAT = "A loss that stays on ln K has collapsed to uniform outputs."


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
        return BAR_WIDTH * (number - scale[0]) / (scale[1] - scale[0])

    line, text = "", f"{value:.3f}"
    if interval and all(map(math.isfinite, interval)):
        low, high = interval
        line = f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="9" y2="9"/>'
        text += f", 95 % interval {low:.3f} to {high:.3f}"
    mark = f'<path class="zero" d="M{at(0):.1f} 1V17"/>' if zero and scale[0] < 0 < scale[1] else ""
    return (
        f'<svg viewBox="0 0 {BAR_WIDTH} 18" width="{BAR_WIDTH}" height="18" role="img" aria-label="{text}">'
        f'<title>{text}</title><path d="M0 9H{BAR_WIDTH}"/>{mark}{line}'
        f'<circle cx="{at(value):.1f}" cy="9" r="4.5"/></svg>'
    )


@dataclass(frozen=True)
class Panel:
    """One small diagram. `reference` is a horizontal line and its label; `scale` multiplies the values; what is rarely
    looked at `is_folded` away. `band` are the keys of an interval around what stands at `reference`.
    """

    key: str
    title: str
    note: str
    unit: str = ""
    scale: float = 1.0
    reference: tuple[float, str] | None = None
    from_zero: bool = False
    wide: bool = False
    is_folded: bool = False
    band: tuple[str, str] | None = None


PROBE = "probe/"
"""What the keys of probes begin with: `probe/NAME` is the score, `probe/NAME/gain...` its difference to the first."""


def probe_panels(metrics: Sequence[Mapping[str, Any]], logged: Iterable[str]) -> list[Panel]:
    """A curve for each probe, with what its first look saw."""
    found = []
    for key in sorted(key for key in logged if key.startswith(PROBE) and key.count("/") == 1):
        _, value = series(metrics, key)
        paired = f"{key}/gain_low" in logged
        shade = " Shaded: the 95 % paired interval over cases of the difference to it." if paired else ""
        found.append(
            Panel(
                key,
                f"Probe {key.removeprefix(PROBE)}",
                f"The exported network on labelled validation cases; dashed: at the first look.{shade}",
                reference=(float(value[0]), f"{value[0]:.3f} at first") if np.isfinite(value[0]) else None,
                wide=True,
                band=(f"{key}/gain_low", f"{key}/gain_high") if paired else None,
            )
        )
    return found


def panels(metrics: Sequence[Mapping[str, Any]], uniform_loss: float | None) -> list[Panel]:
    """The panels for what was logged: the known metrics in a fixed order, then all others by name."""
    uniform = (uniform_loss, f"ln K = {uniform_loss:.2f}") if uniform_loss is not None else None
    logged = {key for row in metrics for key in row} - {"step"}
    judged = judged_loss(dict.fromkeys(logged))
    known = [
        Panel("loss", "Loss", _FLAT if judged == "loss" else "The sum of all losses.", wide=True),
        Panel("dino_loss", "DINO loss", _FLAT, wide=True),
        Panel("method_loss", "Loss of the method", "Without the anchor's part of the sum.", wide=True),
        Panel("anchor_loss", "Anchor loss", "Without its weight. 0: features as the anchor's.", from_zero=True),
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
        Panel(
            "slowest_rank_s",
            "Slowest rank",
            "Seconds of a step until it exchanges gradients; the others wait for it.",
            from_zero=True,
            is_folded=True,
        ),
        Panel(
            "peak_memory_mib",
            "Peak GPU memory",
            "MiB that torch had allocated on rank 0's GPU.",
            from_zero=True,
            is_folded=True,
        ),
        Panel("grad_norm", "Gradient norm", "Before clipping."),
    ]
    known = [replace(panel, reference=uniform) if panel.key == judged else panel for panel in known]
    names = {panel.key for panel in known}
    others = [Panel(key, key, "", is_folded=True) for key in sorted(logged - names) if not key.startswith(PROBE)]
    return [panel for panel in known if panel.key in logged] + probe_panels(metrics, logged) + others


def draw_panel(panel: Panel, metrics: Sequence[Mapping[str, Any]], resumes: Sequence[int] = ()) -> str:
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
            if panel.band is not None:
                (at, low), (_, high) = (series(metrics, end) for end in panel.band)
                axes.fill_between(at, panel.reference[0] + low, panel.reference[0] + high, color=GRID)
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


def draw_learning_curves(curves: Sequence[LearningCurve], name: str) -> str:
    """Score over labelled cases, one line per arm; arms are drawn a little apart. `name` differs between the diagrams
    of a page.
    """
    from matplotlib.figure import Figure

    with drawing(f"labels-{name}"):
        figure = Figure(figsize=(7.5, 3.0 + 0.2 * (len(curves) // 3)), layout="constrained")
        axes = figure.subplots()
        sizes = sorted({size for curve in curves for size in curve.labelled})
        shifts = np.linspace(-SPREAD / 2, SPREAD / 2, len(curves)) if curves[1:] else np.zeros(1)
        for place, curve in enumerate(curves):
            x = np.array(curve.labelled) * (sizes[-1] / sizes[0]) ** shifts[place]
            value, low, high = (np.array([getattr(p, end) for p in curve.points]) for end in ("value", "low", "high"))
            _points(axes, x, value, low, high, place, curve.arm)
            axes.plot(x, value, color=_colour(place), linestyle=LINES[place // len(SERIES) % len(LINES)], linewidth=1.6)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("labelled cases", color=INK, fontsize=8)
        plain_axes(axes)
        _legend(figure)
        return to_svg(figure)


def draw_scaling(found: Scaling, metric: str, bounds: tuple[float, float], salt: str) -> str:
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
