"""How long the next batch is waited for: said after a minute, ended only after a limit."""

from __future__ import annotations

import logging
import time

from trocar.errors import TrocarError

log = logging.getLogger(__name__)

WARN_S = 60.0
ASK_S = 5.0
"""How often one that waits looks at the clock."""


class Patience:
    """Of one rank that waits for the batches of a loader, one after another.

    `limit_s`: seconds without a batch that are an error; None: it is never one. Storage that is slow and storage that
    is stuck look the same from here, so a warning comes long before, and again each time the wait has doubled.
    """

    def __init__(self, first_step: int, rank: int, limit_s: float | None) -> None:
        self.step, self.rank, self.limit_s = first_step, rank, limit_s
        self.is_over = False
        self.asked_for()

    def asked_for(self) -> None:
        """The next batch is being waited for from now on."""
        self._since, self._warn_s = time.monotonic(), WARN_S

    def came(self) -> None:
        """It is there."""
        self.step += 1

    @property
    def slice_s(self) -> float:
        """Seconds to wait before `still_waiting` has something to say, or should be asked at least."""
        return ASK_S if self.limit_s is None else min(ASK_S, self.limit_s / 2)

    def still_waiting(self) -> None:
        """To be called now and then. Warns, and raises TrocarError at the limit."""
        waited = time.monotonic() - self._since
        if self.limit_s is not None and waited >= self.limit_s:
            self.is_over = True
            raise TrocarError(
                f"no batch for {waited:.0f} s (run.data_timeout_s = {self.limit_s:g}), step {self.step}, rank "
                f"{self.rank}: the storage of the shards, or what decodes them, is stuck. The same command continues "
                f"from the last checkpoint"
            )
        if waited >= self._warn_s:
            log.warning("no batch for %.0f s, step %d, rank %d", waited, self.step, self.rank)
            self._warn_s = 2 * waited
