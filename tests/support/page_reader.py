"""A page as a browser reads it: its tags, their attributes, and its text."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "circle", "line", "path", "br", "link", "use", "stop", "rect"}


class PageReader(HTMLParser):
    """`tags` in their order, `attributes` as (tag, name, value), and the `text` between tags, styles aside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    @property
    def fetched(self) -> list[str]:
        """What a browser would fetch: nothing but what is inside of the page begins with `data:`."""
        places = ("src", "href", "xlink:href", "srcset", "data")
        return [value for _, name, value in self.attributes if name in places and value[:1] != "#"]


def read_page(page: str) -> PageReader:
    """Reads a page, whose tags have to be closed in their order."""
    found = PageReader()
    found.feed(page)
    assert found.open == []
    return found
