"""What text that others read leaves out: credentials in any file or log, and folders of this machine in a shared page.

Absolute paths name machines and, in a home folder, people. Of a page is read the text between its tags, and the
attributes that describe pictures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

# Up to the last @ before a slash; and, as SQLAlchemy reads a URL, a password with slashes (a port is none).
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)(?:[^/\s'\"]+@|[^/\s:'\"]*:(?!\d+(?:/|$))[^\s'\"]*@)")
_SECRET_QUERY = re.compile(
    r"([?&][^=&\s'\"]*(?:token|password|passwd|secret|key|credential|signature)[^=&\s'\"]*=)[^&\s'\"]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` with `***` for the user info of URLs (`scheme://user:password@`) and secret-looking query
    values.
    """
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def redact_tree(value: Any) -> Any:
    """`redact` on every string inside nested mappings and sequences; other leaves unchanged, tuples become
    lists.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(item) for item in value]
    return value


def secrets_in(uri: str) -> list[str]:
    """The user name and password inside `uri`, as written and decoded, longest first: what a library's error message
    may repeat.
    """
    found = _USERINFO.match(uri)
    if found is None:
        return []
    user, _, password = uri[found.end(1) : found.end() - 1].partition(":")
    items = {item for item in (user, password, unquote(user), unquote(password)) if item}
    return sorted(items, key=lambda item: (-len(item), item))


_TAG = re.compile(r"(<[^>]*>)")
_SAID = re.compile(r'(?<= )(alt|title|aria-label)="([^"]*)"')


def readable(page: str, change: Callable[[str], str]) -> str:
    """The page with `change` applied to what can be read of it; what is embedded stays as it is.

    Everything in `page` that is no tag has to be escaped, and is again.
    """
    from html import escape, unescape  # here, because every call of `trocar` imports this file

    def changed(text: str) -> str:
        plain = unescape(text)
        shown = change(plain)
        return text if shown == plain else escape(shown)

    parts = _TAG.split(page)
    for place, part in enumerate(parts):
        inside = place % 2
        parts[place] = _SAID.sub(lambda found: f'{found[1]}="{changed(found[2])}"', part) if inside else changed(part)
    return "".join(parts)


_PATH = re.compile(r"(?<![\w.:/~$}\\-])(?:/[^\s/:;,'\"`<>|()\[\]{}]+){2,}/?")
_STORE = re.compile(r"\b(?:sqlite|file):/{2,}[^\s'\"`<>,;]+")


def without_folders(text: str) -> str:
    """`text` with no absolute path: `.../runs/a` for `/home/jane/work/runs/a`, and nothing at all of a home folder.

    What is made to be shared needs no folder of the machine it was made on, and a home folder names its owner. Relative
    paths and URLs stay.
    """
    home = str(Path.home())
    plain = text.replace(home, "~") if len(home) > 1 else text
    if plain.startswith("/") and plain.count("/") > 1 and "\n" not in plain:
        return _ending(plain)  # a path as a whole, which may have spaces
    plain = _STORE.sub(lambda found: found[0].partition(":")[0] + ":" + _ending(found[0].partition(":")[2]), plain)
    return _PATH.sub(lambda found: _ending(found[0]), plain)


def _ending(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    if parts[0] in ("home", "Users"):
        parts = parts[2:]
    return "/".join(["...", *[part for part in parts if part != "~"][-2:]])


def tree_without_folders(value: Any) -> Any:
    """`without_folders` on every string of nested mappings and sequences."""
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, Mapping):
        return {key: tree_without_folders(item) for key, item in value.items()}
    return [tree_without_folders(item) for item in value] if isinstance(value, list | tuple) else value


def html_without_folders(page: str) -> str:
    """`without_folders` on what can be read of a page (`readable`)."""
    return readable(page, without_folders)
