"""How long the next batch is waited for: said after a minute, ended only after a limit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trocar.errors import TrocarError

log = logging.getLogger(__name__)

WARN_S = 60.0
ASK_S = 5.0
"""How often one that waits looks at the clock."""


class Patience:
    """Of one rank that waits for the batches of a loader, one after another.

    `limit_s`: seconds without a batch that are an error; None: it is never one. Storage that is slow and storage that
    is stuck look the same from here, so a warning comes long before, and again each time the wait has doubled. Time
    in which nobody looked at the clock doesn't count: the whole job was suspended then, and its workers with it.
    """

    def __init__(self, first_step: int, rank: int, limit_s: float | None) -> None:
        self.step, self.rank, self.limit_s = first_step, rank, limit_s
        self.is_over = False
        self._lock = threading.Lock()  # of the three below
        self._is_waiting, self._waited_s, self._looked = False, 0.0, 0.0
        self._warn_s = WARN_S

    def asked_for(self) -> None:
        """The next batch is being waited for from now on."""
        with self._lock:
            self._is_waiting, self._waited_s, self._looked = True, 0.0, time.monotonic()
        self._warn_s = WARN_S

    def came(self) -> None:
        """It is there, and nothing is waited for."""
        with self._lock:
            self._is_waiting = False
        self.step += 1

    @property
    def slice_s(self) -> float:
        """Seconds to wait before there may be something to say."""
        return ASK_S if self.limit_s is None else min(ASK_S, self.limit_s / 2)

    def warn(self) -> None:
        """To be called now and then while a batch is waited for, or might be."""
        waited = self._waited()
        if waited >= self._warn_s:
            log.warning("no batch for %.0f s, step %d, rank %d", waited, self.step, self.rank)
            self._warn_s = 2 * waited

    def check(self, more_s: float = 0.0) -> None:
        """Raises TrocarError at the limit, or `more_s` seconds behind it."""
        waited = self._waited()
        if self.limit_s is not None and waited >= self.limit_s + more_s:
            self.is_over = True
            raise self.error(waited)

    def error(self, waited_s: float | None = None) -> TrocarError:
        """What there is to say at the end of it."""
        waited_s = self._waited() if waited_s is None else waited_s
        return TrocarError(
            f"no batch for {waited_s:.0f} s (run.data_timeout_s = {self.limit_s:g}), step {self.step}, rank "
            f"{self.rank}: the storage of the shards, or what decodes them, is stuck. The same command continues from "
            f"the last checkpoint"
        )

    @contextmanager
    def watched(self, stuck: Callable[[], None]) -> Iterator[None]:
        """Warn from a thread of its own, and call `stuck` there where the one that waits has missed the limit itself:
        it may be caught in what it waits for, such as the socket of a process that is stopped."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(self.slice_s):
                self.warn()
                try:
                    self.check(more_s=2 * self.slice_s)
                except TrocarError:
                    return stuck()

        thread = threading.Thread(target=watch, name="trocar-patience", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _waited(self) -> float:
        with self._lock:
            if not self._is_waiting:
                return 0.0
            now = time.monotonic()
            self._waited_s += min(now - self._looked, 2 * self.slice_s)
            self._looked = now
            return self._waited_s
