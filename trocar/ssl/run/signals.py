"""Signals set a flag; the trainer looks at it at a step boundary."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from trocar.ssl.ranks.distributed import World

STOPPING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")


class StopSignals:
    """Installed on construction, in the main thread. `received` is the signal's number, 0 while there is none.

    Of several signals the one with the highest number counts, over time as over ranks: SIGTERM (15), which says that
    the job is over, outranks SIGUSR2 (12) and SIGUSR1 (10), which ask it to come back, and those outrank Ctrl-C.

    A second SIGINT is answered at once by KeyboardInterrupt: someone at a terminal means it.
    """

    def __init__(self) -> None:
        self.received = 0
        for name in STOPPING:
            signal.signal(getattr(signal, name), self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = max(self.received, number)


class StoppedError(SystemExit):
    """The run was asked to stop and has saved; `code` is the exit code."""


AfterStop = Callable[[int, World], int]
"""What follows a saved stop, called on every rank with the signal's number; returns the exit code."""


def shell_code(number: int, world: World) -> int:
    """Nothing follows: exit with 128 + signal, as shells expect."""
    return 128 + number
