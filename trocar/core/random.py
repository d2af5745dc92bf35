"""Counter-based random bits and permutations: the same (key, coordinates) give the same answer on any machine.

Philox4x32-10 after Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), written out here because
numpy does not promise that its Generator streams stay the same between versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
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


ROUNDS = 8  # even, so that the two halves of an unbalanced network end up where they began

_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)


class Permutation:
    """Feistel network over the smallest power of two >= n, with cycle walking back into 0..n-1.

    The round function is MurmurHash3's 64-bit finaliser, keyed per round. It is a shuffle, not a cipher.

    Parameters: `n` >= 1 elements; `key` says which permutation (see `make_key`).
    """

    def __init__(self, n: int, *key: int | str) -> None:
        if n < 1:
            raise ValueError(f"a permutation needs at least one element, got {n}")
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._high, self._low = bits // 2, bits - bits // 2
        pairs = words(make_key("permutation", *key), 2 * ROUNDS).astype(np.uint64)
        self._keys: U64 = (pairs[0::2] << np.uint64(32)) | pairs[1::2]

    def __call__(self, index: I64) -> I64:
        """int64[...] in [0, n) -> int64[...] in [0, n), one to one."""
        value = np.asarray(index, dtype=np.int64).astype(np.uint64)
        limit = np.uint64(self.n)
        value = self._network(value)
        outside = value >= limit
        while outside.any():  # fewer than half of the values are outside after each walk, on average
            value[outside] = self._network(value[outside])
            outside = value >= limit
        return value.astype(np.int64)

    def _network(self, value: U64) -> U64:
        a, b = np.uint64(self._high), np.uint64(self._low)
        left, right = value >> b, value & _mask(b)
        for key in self._keys:
            mixed = right ^ key
            mixed = (mixed ^ (mixed >> _S33)) * _M1
            mixed = (mixed ^ (mixed >> _S33)) * _M2
            mixed ^= mixed >> _S33
            left, right = right, left ^ (mixed & _mask(a))
            a, b = b, a
        out: U64 = (left << b) | right
        return out


def _mask(bits: np.uint64) -> np.uint64:
    mask: np.uint64 = np.uint64((1 << int(bits)) - 1)
    return mask


@contextmanager
def torch_seeded(*key: int | str, device: str = "cpu") -> Iterator[None]:
    """torch's random numbers follow from `key` inside, on the CPU and on `device`, and are as they were afterwards."""
    import torch

    low, high = make_key(*key)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.startswith("cuda") else []):
        torch.manual_seed(low | high << 32)
        yield
