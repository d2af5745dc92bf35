"""How a run is asked to stop, and what follows: the trainer polls a callable at each step boundary.

Nothing here touches the process: the command line installs signal handlers and hands in what they have received.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trocar.ssl.ranks.distributed import World  # torch, which the command line does not wait for

STOPPING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
"""Signals that ask a run to stop."""

Stop = Callable[[], int]
"""Called at each step boundary: 0 while the run may go on, else the number of the signal that asked it to stop."""

AfterStop = Callable[[int, "World"], int]
"""What follows a saved stop, called on every rank with the signal's number; returns the exit code."""


def never() -> int:
    """A `Stop` for a caller who has no other way to stop a run than an exception, such as Ctrl-C in a notebook."""
    return 0


def shell_code(number: int, world: World) -> int:
    """Nothing follows: the code is 128 + signal, as shells expect."""
    return 128 + number
