"""Optional dependencies: what is missing is said with the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trocar.errors import ConfigError


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
