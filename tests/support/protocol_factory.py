"""Problems from arrays: what a protocol needs, without a data set on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trocar.downstream.labels import LabelSpace
from trocar.downstream.protocols.base import Goal, Problem
from trocar.downstream.tasks import get_task


@dataclass(frozen=True)
class ArrayEncoder:
    """An encoder whose features are given."""

    features: Any


def make_problem(
    x: np.ndarray, y: np.ndarray, case: np.ndarray, test: np.ndarray, val: np.ndarray | None = None, classes: int = 3
) -> Problem:
    """Train on all rows of `x` but those in the mask `val`; predict `test`. Targets with two axes are tools."""
    held = np.zeros(len(x), dtype=bool) if val is None else val
    names = tuple(str(i) for i in range(classes))
    space = LabelSpace("phase", "multiclass", names) if y.ndim == 1 else LabelSpace("tools", "multilabel", names)
    rows = np.arange(len(x))
    ends = np.arange(len(x), len(x) + len(test))
    hidden = np.full((len(test), *y.shape[1:]), -1, dtype=y.dtype)
    return Problem(
        goals=(Goal(get_task(space.task), space, np.concatenate([y, hidden])),),
        encoder=ArrayEncoder(np.concatenate([x, test])),  # type: ignore[arg-type]
        train=rows[~held],
        val=rows[held] if held.any() else None,
        test=ends,
        case=np.concatenate([case, np.full(len(test), case.max() + 1)]),
        time_s=np.arange(len(x) + len(test), dtype=np.float64),
    )
