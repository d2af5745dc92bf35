"""Signals set a flag; the trainer looks at it at a step boundary."""

from __future__ import annotations

import signal
from types import FrameType

STOPPING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")


class StopSignals:
    """Installed on construction, in the main thread. `received` is the signal's number, 0 while there is none.

    A second SIGINT is answered at once by KeyboardInterrupt: someone at a terminal means it.
    """

    def __init__(self) -> None:
        self.received = 0
        for name in STOPPING:
            signal.signal(getattr(signal, name), self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


class StoppedError(SystemExit):
    """The run was asked to stop, has saved, and exits with 128 + signal, as shells expect."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
