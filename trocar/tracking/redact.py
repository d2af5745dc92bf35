"""Credentials stay out of every file and log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)[^/\s@'\"]+@")
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
    """The user name and password inside `uri`, longest first: what a library's error message may repeat."""
    try:
        parts = urlsplit(uri)
        found = [parts.password, parts.username]
    except ValueError:
        return []
    return sorted((item for item in found if item), key=len, reverse=True)
