"""Counter-based random bits: the same (key, coordinates) give the same bits, on any machine, in any order.

Philox4x32-10 after Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), written out here because
numpy does not promise that its Generator streams stay the same between versions.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

U32: TypeAlias = npt.NDArray[np.uint32]
U64: TypeAlias = npt.NDArray[np.uint64]
F64: TypeAlias = npt.NDArray[np.float64]
I64: TypeAlias = npt.NDArray[np.int64]

Key: TypeAlias = tuple[int, int]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def make_key(*parts: int | str) -> Key:
    """A 64-bit key from words that say what the bits are for, such as `make_key(seed, "views")`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox(counter: U32, key: Key) -> U32:
    """Philox4x32-10: uint32[..., 4] counters -> uint32[..., 4] random words."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(key: Key, count: int, *coordinates: Any) -> U32:
    """`count` random uint32 words for every point of up to three broadcast integer coordinates.

    Coordinates are integers in [0, 2^32). Returns uint32[broadcast shape..., count].
    """
    if len(coordinates) > 3:
        raise ValueError("at most three coordinates: the fourth counter word numbers the blocks")
    grids = np.broadcast_arrays(*(np.asarray(c, dtype=np.int64) for c in coordinates))
    shape = grids[0].shape if grids else ()
    blocks = -(-count // 4)
    counter = np.zeros((*shape, blocks, 4), dtype=np.uint32)
    for axis, grid in enumerate(grids):
        counter[..., axis] = grid[..., None].astype(np.uint32)
    counter[..., 3] = np.arange(blocks, dtype=np.uint32)
    return philox(counter, key).reshape(*shape, blocks * 4)[..., :count]


def uniform(bits: U32) -> F64:
    """uint32 words -> float64 in [0, 1), multiples of 2^-24."""
    out: F64 = (bits >> np.uint32(8)).astype(np.float64) * 2.0**-24
    return out


def below(bits: U32, limit: Any) -> I64:
    """uint32 words -> integers in [0, limit) by fixed-point multiplication (bias below limit / 2^32)."""
    out: I64 = ((bits.astype(np.uint64) * np.asarray(limit, dtype=np.uint64)) >> _SHIFT).astype(np.int64)
    return out
