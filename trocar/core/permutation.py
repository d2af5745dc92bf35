"""A pseudo-random permutation of 0..n-1 that is computed, not stored: any element in constant time and memory."""

from __future__ import annotations

import numpy as np

from trocar.core.random import I64, U64, make_key, words

ROUNDS = 8  # even, so that the two halves of an unbalanced network end up where they began

_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)


class Permutation:
    """Feistel network over the smallest power of two >= n, with cycle walking back into 0..n-1.

    The round function is MurmurHash3's 64-bit finaliser, keyed per round. It is a shuffle, not a cipher.

    Parameters: `n` >= 1 elements; `key` says which permutation (see `counter.make_key`).
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
