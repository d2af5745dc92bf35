"""A set of positions as a bitmap that finds its k-th member: one bit per position, and 1/8 bit for the counts.

Rank and select with one level of counts, after Jacobson, "Space-efficient static trees and graphs" (FOCS 1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trocar.core.random import I64

U8: TypeAlias = npt.NDArray[np.uint8]

BLOCK = 64  # bytes between two counts

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_COUNT = _BITS.sum(axis=1, dtype=np.uint8)
_KTH = np.argsort(1 - _BITS.astype(np.int8), axis=1, kind="stable").astype(np.uint8)  # [byte, k] -> k-th set bit


def pack(members: npt.NDArray[np.bool_]) -> U8:
    """bool[n] -> uint8[whole blocks]: bit p % 8, least significant first, of byte p // 8 is members[p]."""
    data = np.zeros(-(-members.size // (8 * BLOCK)) * BLOCK, dtype=np.uint8)
    data[: -(-members.size // 8)] = np.packbits(members, bitorder="little")
    return data


@dataclass(frozen=True)
class Bitmap:
    """What `pack` made, or several of them joined. Raises ValueError when `data` is not whole blocks."""

    data: U8

    def __post_init__(self) -> None:
        if self.data.size % BLOCK:
            raise ValueError(f"a bitmap is whole blocks of {BLOCK} bytes, got {self.data.size} bytes")

    @cached_property
    def before(self) -> I64:
        """int64[blocks]: members in front of each block."""
        counts = _COUNT[self.data].reshape(-1, BLOCK).sum(axis=1, dtype=np.int64)
        before: I64 = np.cumsum(counts) - counts
        return before

    def select(self, rank: I64) -> I64:
        """int64[k] ranks in 0..members-1 -> int64[k] positions: rank 0 is the first member."""
        block = np.searchsorted(self.before, rank, side="right") - 1
        left = rank - self.before[block]
        # Members of the block up to and including each byte; the byte wanted is the first to exceed the rank.
        counts = _COUNT[self.data.reshape(-1, BLOCK)[block]]
        counted = np.cumsum(counts, axis=1, dtype=np.uint16)
        byte = np.argmax(counted > left[:, None], axis=1)
        each = np.arange(rank.size)
        left -= counted[each, byte].astype(np.int64) - counts[each, byte]
        at = block * BLOCK + byte
        position: I64 = at * 8 + _KTH[self.data[at], left]
        return position
