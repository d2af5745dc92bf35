"""Diagrams as inline SVG whose colours follow the page: light, dark, print."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
