"""What is asked about leaks where labelled data are scored or shown; `trocar.leakage.judge` is handed in to answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trocar.core.messages import Say
from trocar.core.random import I64
from trocar.downstream.labels import LabelledFrames

Judged = Callable[[Sequence[str | Path]], dict[str, Any]]
"""judged(backbones): the worst verdict over them as JSON values, as it stands beside a score."""


class CopyCheck(Protocol):
    """Finds pictures that two splits of one data set share."""

    def rows_to_compare(self, data: LabelledFrames, most: int = ...) -> I64:
        """int64[m] rows of the table, at most about `most`, spread over all videos."""
        ...

    def copies_within(self, data: LabelledFrames, rows: I64, images: Iterable[npt.NDArray[np.uint8]]) -> list[str]:
        """In lines, which test cases show pictures of training cases, of uint8 [H, W, 3] of the `rows` in order."""
        ...


class LeakChecks(CopyCheck, Protocol):
    """Also says whether weights have seen test cases."""

    def judging(self, data: LabelledFrames, cases: Collection[str], say: Say) -> Judged:
        """What judges weights on these cases of a data set."""
        ...
