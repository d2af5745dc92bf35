"""Small pieces of HTML that the sections share. Text is escaped here unless it is named HTML."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from html import escape


def section(title: str, lead: str, *parts: str, anchor: str = "") -> str:
    """A section; `parts` are HTML."""
    name = f' id="{escape(anchor)}"' if anchor else ""
    return f'<section{name}><h2>{escape(title)}</h2><p class="lead">{escape(lead)}</p>{"".join(parts)}</section>'


def head(titles: Sequence[str], numbers: Collection[int] = ()) -> str:
    """The header row; `numbers` are the columns that are set to the right, and a line break in a title is kept."""
    cells = [
        f"<th{' class=number' if place in numbers else ''}>{escape(title).replace(chr(10), '<br>')}</th>"
        for place, title in enumerate(titles)
    ]
    return f"<tr>{''.join(cells)}</tr>"


def table(header: str, rows: Sequence[str], look: str = "scores") -> str:
    """A table that scrolls by itself where the page is narrow; `header` and `rows` are HTML."""
    return (
        f'<div class=scroll><table class="{look}"><thead>{header}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def folded(title: str, items: Sequence[str]) -> str:
    """A list that grows with the number of cases, folded away under a title; nothing without items."""
    if not items:
        return ""
    return f"<details><summary>{escape(title)}</summary><p class=note>{escape('; '.join(items))}</p></details>"


def few(items: Sequence[str], shown: int = 6) -> str:
    """All of them, or of more than `shown` their number and the first three."""
    if len(items) <= shown:
        return ", ".join(items)
    return f"{len(items)} cases: {', '.join(items[:3])}, ..."


def cell(text: str, look: str = "") -> str:
    """A cell of text. What is already escaped must not come here."""
    return f"<td{f' class={look}' if look else ''}>{escape(text)}</td>"


def number(value: float, digits: int = 3) -> str:
    """A number, or a dash for one that is not finite."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference with its sign; a true minus is as wide as the plus."""
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"


def span(low: float, high: float, digits: int = 3) -> str:
    """`[0.412, 0.518]`, or what it means that there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"[{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")
