"""Pages from the templates of this folder: one file each, made to be shared, nothing fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trocar import __version__
from trocar.privacy.aliases import Aliases
from trocar.privacy.page_text import html_without_folders, without_folders
from trocar.report import words
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
        "number": words.number,
        "signed": words.signed,
        "p_value": words.p_value,
        "clock": words.clock,
        "counted": words.count,
        "yaml": _yaml,
        "without_folders": without_folders,
        "shareable": _shareable,
    }
    found.tests["finite"] = math.isfinite
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    found.globals |= {"bar": bar, "span": words.span, "style": style, "version": __version__}
    return found


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


def _shareable(page: str, hidden: Aliases) -> str:
    """Charts bring text of their own, so names are taken out of the finished page and not of the variables."""
    return html_without_folders(hidden.html(str(page)))
