"""What can be read of an HTML page: the text between its tags, and the attributes that describe pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape, unescape

_TAG = re.compile(r"(<[^>]*>)")
_SAID = re.compile(r'(?<= )(alt|title|aria-label)="([^"]*)"')


def readable(page: str, change: Callable[[str], str]) -> str:
    """The page with `change` applied to what can be read of it; what is embedded stays as it is.

    Everything in `page` that is no tag has to be escaped, and is again.
    """

    def changed(text: str) -> str:
        plain = unescape(text)
        shown = change(plain)
        return text if shown == plain else escape(shown)

    parts = _TAG.split(page)
    for place, part in enumerate(parts):
        inside = place % 2
        parts[place] = _SAID.sub(lambda found: f'{found[1]}="{changed(found[2])}"', part) if inside else changed(part)
    return "".join(parts)
