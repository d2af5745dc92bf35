"""What long work has to say while it goes on: a line at a time, to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""Is told a line of text, without its end: a terminal, a log, or nobody."""
