"""One evaluation by several processes: which part of the work is this one's, and how it hears of the others.

The processes share a folder and compute nothing together: each writes what it made, and all wait at a few places until
everyone has come there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from trocar.errors import TrocarError

Item = TypeVar("Item")
SEEN_S, ASK_S = 120.0, 0.1
"""How long a network file system may hide a new file from other machines, and how often it is asked."""


@dataclass(frozen=True)
class WorkShare:
    """Rank `rank` of `size`; by default the only one.

    `wait(name)` returns when all ranks have come to `name`, which serves once. `check()` raises TrocarError where
    another rank has ended before its time; a wait does so by itself. `sharing()` is how many of the ranks run on the
    cores of this one, known after the first wait.
    """

    rank: int = 0
    size: int = 1
    wait: Callable[[str], None] = lambda name: None
    check: Callable[[], None] = lambda: None
    sharing: Callable[[], int] = lambda: 1

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's block of the items, in order; no block is longer than another by more than one."""
        return items[len(items) * self.rank // self.size : len(items) * (self.rank + 1) // self.size]

    def see(self, *paths: Path) -> None:
        """Return when one of the files, which some rank has written, is visible here. Raises TrocarError if none ever
        is.
        """
        deadline = time.monotonic() + SEEN_S
        while not any(path.is_file() for path in paths):
            if time.monotonic() > deadline:
                raise TrocarError(
                    f"rank {self.rank} of {self.size} does not see {paths[0]}, which another rank has written: out and "
                    "cache must be folders that all machines of the job share"
                )
            time.sleep(ASK_S)
