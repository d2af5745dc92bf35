"""What a terminal sends and takes: signals, and standard output and error.

The library installs no signal handlers: it is handed what these have received. The reader of the output may go away,
and its disk may be full: Python writes the last of it when it exits, where a failure can only be reported as `Exception
ignored` and exit code 120. `finish` writes it while the program can still answer for it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from trocar.errors import StoppedError


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
    from trocar.ssl.engine.trainer import STOPPING  # here, because every call of `trocar` imports this file

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


READER_GONE = 128 + signal.SIGPIPE
"""The exit code of a program that `head` ends by closing the pipe, as the shell reports it."""


def reader_gone() -> bool:
    """Whether the other end of standard output or standard error was closed, as `head` closes it."""
    return any(_is_closed(stream) for stream in (sys.stdout, sys.stderr))


def drop_unwritten() -> None:
    """Send what can no longer be written to the null device, so that the exit of Python does not try again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _to_null(stream)


def finish(code: int) -> int:
    """Write out what is buffered. Returns `code`, or that of `lost` for output that could not be written."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        code = lost(error) if code == 0 else code
    drop_unwritten()
    return code


def lost(error: OSError) -> int:
    """The exit code for output that could not be written.

    A reader that has gone away is no error and nobody is left to be told: READER_GONE. Anything else, such as a full
    disk, is reported on standard error: 1, since output that nobody received is no success.
    """
    if isinstance(error, BrokenPipeError):
        return READER_GONE
    say(f"trocar: standard output: {error.strerror or error}")
    return 1


def say(message: str) -> None:
    """A line on standard error, if anybody still reads it."""
    try:
        print(message, file=sys.stderr)
    except OSError:
        _to_null(sys.stderr)


def _is_closed(stream: TextIO) -> bool:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a test's replacement, or already closed
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def _to_null(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
