"""Errors a user can act on. Every one says what is wrong and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrocarError(Exception):
    """A failure at run time. The command line prints the message without a traceback and exits 1."""

    exit_code = 1


class ConfigError(TrocarError):
    """A bad configuration or bad arguments. The command line exits 2."""

    exit_code = 2


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest allowed word, or an empty string."""
    match = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""
