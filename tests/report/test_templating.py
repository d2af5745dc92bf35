import re
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError

from trocar.privacy.aliases import Aliases
from trocar.report.page import FOLDER, render_template


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="inputs"):
        render_template("run.html.j2", SimpleNamespace(title="a page without inputs"))


def test_nothing_but_charts_and_the_style_sheet_goes_unescaped():
    pages = [path.read_text(encoding="utf-8") for path in sorted((FOLDER / "templates").iterdir())]
    unescaped = {found.strip() for page in pages for found in re.findall(r"\{\{ ([^{}(]+)[^{}]*\| safe", page)}
    assert unescaped == {"bar", "one.svg", "style", "svg", "title.splitlines"}  # the last for its line breaks
    assert not any("autoescape" in page for page in pages)


def test_what_is_withheld_is_neither_in_title_nor_text_nor_descriptions():
    image = SimpleNamespace(uri="data:,", width=1, height=1, text="frame of St. Anna")
    page = render_template(
        "run.html.j2",
        SimpleNamespace(
            title="St. Anna",
            inputs=SimpleNamespace(
                record={}, private=False, metrics=(), provenance={"at": "/home/x/St. Anna"}, config={}, notes=()
            ),
            sentences=["About St. Anna."],
            tiles=(),
            evaluation=None,
            curves=(),
            feature_maps=(),
            nearest=None,
            frames=[image],
            views=(),
        ),
        Aliases(["St. Anna"]),
    )
    assert "Anna" not in page
    assert "/home" not in page
    assert page.count("withheld-1") == 6
