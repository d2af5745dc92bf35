"""Errors a user can act on. Every one says what is wrong and what to do about it.

An optional dependency that is missing is said with the command that installs it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class TrocarError(Exception):
    """A failure at run time. The command line prints the message without a traceback and exits 1."""

    exit_code = 1


class ConfigError(TrocarError):
    """A bad configuration or bad arguments. The command line exits 2."""

    exit_code = 2


class StoppedError(BaseException):
    """Work that was asked to stop has saved and ends; a program that has nothing else to do exits with `code`.

    No Exception, as KeyboardInterrupt is none: whoever handles errors must not take a stop for one.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"stopped on request; as a program: exit code {code}")
        self.code = code


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest allowed word, capitals aside, or an empty string.

    A long form is near its short form, as `validation` is to `val`.
    """
    known = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    close += [name for name in known if len(name) > 2 and word.lower().startswith(name)]
    return f" (did you mean {known[close[0]]!r}?)" if close else ""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports that the extra `name` of pyproject.toml brings.

    Raises ConfigError in place of ModuleNotFoundError, with the line that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "trocar":
            raise
        raise ConfigError(f"{error.name} is not installed: pip install 'trocar[{name}]'") from error
