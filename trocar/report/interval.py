"""A dot with its interval as a small inline picture, for tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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
