"""Credentials stay out of every file and log."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
