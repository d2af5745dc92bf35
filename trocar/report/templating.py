"""Pages from the templates of this folder: one file each, made to be shared, nothing fetched from anywhere.

Numbers, counts and lists become plain text here, which a template escapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trocar import __version__
from trocar.privacy.aliases import Aliases
from trocar.privacy.redaction import html_without_folders, without_folders
from trocar.report.charts import bar

FOLDER = Path(__file__).parent
NOTHING_WITHHELD = Aliases()


def render_template(name: str, values: object, hidden: Aliases = NOTHING_WITHHELD) -> str:
    """The template `name` as HTML. The fields of `values`, a dataclass, are its variables.

    Strings are escaped, but for charts and the style sheet. A variable that is not there is an error
    (jinja2.UndefinedError): a page never silently lacks a number. A whole page names no folder of this machine and
    nothing that is `hidden`.
    """
    return _environment().get_template(name).render(**vars(values), hidden=hidden)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "number": number,
        "signed": signed,
        "p_value": p_value,
        "clock": clock,
        "counted": count,
        "yaml": _yaml,
        "without_folders": without_folders,
        "shareable": _shareable,
    }
    found.tests["finite"] = math.isfinite
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    found.globals |= {"bar": bar, "span": span, "style": style, "version": __version__}
    return found


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


def _shareable(page: str, hidden: Aliases) -> str:
    """Charts bring text of their own, so names are taken out of the finished page and not of the variables."""
    return html_without_folders(hidden.html(str(page)))


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
