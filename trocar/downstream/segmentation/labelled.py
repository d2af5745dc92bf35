"""Images and masks to learn from, read where they are indexed: what is on disk is never copied as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Stack(Protocol):
    """uint8 [n, H, W, ...]: an array, a memory map, or a choice of rows of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Bytes:
        """A slice or indices along the first axis."""


@dataclass(frozen=True)
class Picked:
    """The `rows` int64 [n] of a larger array, in their order."""

    array: Bytes
    rows: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, H, W, ...]."""
        return (len(self.rows), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> Bytes:
        return np.asarray(self.array[self.rows[rows]])


LabelledImages = tuple[Stack, Stack]
"""Images uint8 [n, H, W, 3] and masks uint8 [n, H, W] of class indices or 255."""
