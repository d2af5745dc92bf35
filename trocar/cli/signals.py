"""Signal handlers of the program. The library installs none: it is handed what these have received."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from trocar.errors import StoppedError
from trocar.ssl.engine.trainer import STOPPING


class StopSignals:
    """Installed on construction, in the main thread. Called, it is the signal's number, 0 while there is none.

    Of several signals the one with the highest number counts, over time as over ranks: SIGTERM (15), which says that
    the job is over, outranks SIGUSR2 (12) and SIGUSR1 (10), which ask it to come back, and those outrank Ctrl-C.

    A second SIGINT is answered at once by KeyboardInterrupt: someone at a terminal means it.
    """

    def __init__(self) -> None:
        self.received = 0
        for number in stopping():
            signal.signal(number, self._handle)

    def __call__(self) -> int:
        """A `Stop`."""
        return self.received

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = max(self.received, number)


def stopping() -> list[int]:
    """The numbers of the signals that ask a run to stop."""
    return [getattr(signal, name) for name in STOPPING]


@contextmanager
def answered(numbers: Sequence[int], answer: Callable[[int], object]) -> Iterator[None]:
    """Within, each of these signals calls `answer` with its number; afterwards they do what they did before.

    SIGHUP stays ignored where it is, as nohup makes it: the end of the terminal is then no reason to stop.
    """
    heard = [number for number in numbers if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: answer(number)) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_stopped(number: int) -> None:
    """Raises StoppedError, with which a command that has no other answer to a signal ends in order."""
    raise StoppedError(128 + number)
