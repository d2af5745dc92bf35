"""Numbers, counts and lists in the words of a page: plain text, which a template escapes."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float | None, digits: int = 3) -> str:
    """`0.412`, or a dash for what is undefined or not finite."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference with its sign; a true minus is as wide as the plus."""
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"


def span(low: float, high: float, digits: int = 3) -> str:
    """`[0.412, 0.518]`, or what it means that there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"[{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")


def p_value(value: float) -> str:
    """`0.031`, or `< 0.001`, or a dash where nothing was tested."""
    return "< 0.001" if value < 0.001 else number(value)


def clock(seconds: float) -> str:
    """`m:ss` from the start of a video."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def count(number: int, word: str) -> str:
    """`1 arm`, `2 arms`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def times(number: int) -> str:
    """`once`, `twice`, `5 times`."""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def verb(number: int) -> str:
    """`is` or `are`."""
    return "is" if number == 1 else "are"


def few_cases(cases: Sequence[str], shown: int = 6) -> str:
    """All cases, or of more than `shown` their number and the first three."""
    if len(cases) <= shown:
        return ", ".join(cases)
    return f"{len(cases)} cases: {', '.join(cases[:3])}, ..."
