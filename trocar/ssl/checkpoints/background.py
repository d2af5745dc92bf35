"""Work beside the training, one piece at a time, in a thread that nothing outlives."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from trocar.ssl.run.signals import STOPPING

GoOn = Callable[[], None]
Work = Callable[[GoOn], None]


class GivenUpError(Exception):
    """Nobody waits for the work any more."""


class Background:
    """At most one piece of work, in a thread of its own. What it raises is kept for whoever calls `check`.

    The thread is no daemon: those are stopped where they stand when the interpreter ends, in the middle of a library.
    Signals stay with the main thread.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._ended.set()
        self._error: BaseException | None = None
        self._given_up = threading.Event()

    def start(self, work: Work, name: str) -> None:
        """Begin when the piece before has ended. Raises what that one raised; then this one is not begun.

        `work` is given a function that it has to call often, which raises when the work is given up.
        """
        self.wait()
        self.check()
        thread = threading.Thread(target=self._run, args=(work,), name=name)
        self._ended.clear()
        try:
            thread.start()
        except RuntimeError:  # the system has no thread for us
            self._ended.set()
            raise
        self._thread = thread

    def wait(self, give_up: bool = False) -> None:
        """Until nothing runs. `give_up`: it need not be finished. Signals are answered meanwhile."""
        if give_up:
            self._given_up.set()
        try:
            # Not `join`: a Ctrl-C in it makes Python 3.11 and 3.12 take the thread for ended, which goes on.
            self._ended.wait()
        except BaseException:  # a second Ctrl-C
            self._given_up.set()
            raise
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def trouble(self) -> BaseException | None:
        """What ended work has raised, once; None while it runs or if it went well."""
        if not self._ended.is_set():
            return None
        error, self._error = self._error, None
        return error

    def check(self) -> None:
        """Raises what ended work has raised."""
        error = self.trouble()
        if error is not None:
            raise error

    def _go_on(self) -> None:
        if self._given_up.is_set():
            raise GivenUpError

    def _run(self, work: Work) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in STOPPING])
        try:
            work(self._go_on)
        except BaseException as error:
            # What is given up fails in whatever words the libraries in between have for it.
            if not self._given_up.is_set():
                self._error = error
        finally:
            self._ended.set()
