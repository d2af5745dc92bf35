"""Standard output and standard error, whose reader may go away and whose disk may be full.

Python writes the last of its output when it exits, where a failure can only be reported as `Exception ignored` and exit
code 120. `finish` writes it while the program can still answer for it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import TextIO

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
