"""How far it is: a bar on a terminal, elsewhere silence or a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import rich.console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
UNLIMITED = 100_000  # characters
SILENT = "TROCAR_NO_BARS"
"""Set for processes that share a terminal with the one whose bars are shown there."""


class Console(rich.console.Console):  # noqa: TID251
    """rich's console for all output of the program, which leaves a closed pipe to the command line: rich itself would
    end the process with exit code 1.
    """

    def on_broken_pipe(self) -> None:
        """Called while the BrokenPipeError is handled. Raises it again."""
        raise


def track(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
    """Yield `items`, counting them on standard error under the name `what`."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Inside a `progress_bar` the bar of the whole is the one that is shown: rich has one display at a time.
    hidden = not console.is_terminal or bool(_BARS) or SILENT in os.environ
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task)


class Bar:
    """How far a work of `total` parts is: on a terminal a bar with the time left, elsewhere a line a minute."""

    def __init__(self, what: str, total: int, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.total, self.done = what, total, 0
        self._console, self._pace = console, Pace(0, total, clock)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal or SILENT in os.environ
        )
        self._task = self._progress.add_task(what, total=total)

    def advance(self, part: str) -> None:
        """One part more is done; `part` says in words which."""
        self.done += 1
        self._progress.update(self._task, advance=1, description=f"{self.what}, {part}")
        left = self._pace.left(self.done)
        if left and not self._console.is_terminal:
            self._console.print(f"{self.what}, {part}: {left}", highlight=False, soft_wrap=True)


_BARS: list[Bar] = []


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Bar]:
    """A bar on standard error for a long work; inside, `track` shows none of its own."""
    bar = Bar(what, total, Console(stderr=True))
    _BARS.append(bar)
    try:
        with bar._progress:
            yield bar
    finally:
        _BARS.remove(bar)


def table_console(width: int) -> Console:
    """For tables on standard output: as wide as the terminal or as COLUMNS says, else `width` characters."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console() if known else Console(width=width)


def print_whole(table: rich.console.RenderableType, turned: rich.console.RenderableType) -> None:
    """Print a table of numbers with every digit: in a pipe or file as wide as it is, on a terminal that is too narrow
    for it `turned` instead, which may be cut off at lines and not in numbers.
    """
    console = Console()
    needed = Measurement.get(console, console.options.update(max_width=UNLIMITED), table).maximum
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    if needed <= console.width or not known:
        Console(width=max(needed, 1)).print(table)
    else:
        console.print(turned)


class Pace:
    """How long the rest of a loop takes, for a log: nothing but once a minute. `clock` gives seconds."""

    EVERY_S = 60.0

    def __init__(self, first: int, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.first, self.total, self.clock = first, total, clock
        self.started = self.said = clock()

    def left(self, done: int) -> str:
        """In words, after `done` of `total`; '' when something was said within the last minute, and at the end."""
        now = self.clock()
        if now - self.said < self.EVERY_S or done >= self.total:
            return ""
        self.said = now
        return f"about {duration((now - self.started) / (done - self.first) * (self.total - done) / 3600)} left"


def duration(hours: float) -> str:
    """`3.2 h`, or minutes below two hours."""
    return f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.0f} min"
