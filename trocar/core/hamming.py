"""All pairs of binary hashes that differ in few bits: by faiss, or by numpy where it is missing, with equal results."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trocar.core.random import I64

U8 = npt.NDArray[np.uint8]

_PAIRS = 1 << 22
"""Pairs that numpy compares at a time: 128 MiB."""
_log = logging.getLogger(__name__)


class HashIndex(Protocol):
    """Hashes to be compared with others."""

    def within(self, queries: U8, bits: int) -> tuple[I64, I64, I64]:
        """Pairs of a query of uint8[m, bytes] and a hash that differ in at most `bits` bits, by query.

        Returns the numbers of the queries, of the hashes, and the bits in which they differ, each int64[pairs].
        """


def hash_index(hashes: U8) -> HashIndex:
    """An index of uint8[n, bytes]; `bytes` is a multiple of 8."""
    try:
        import faiss
    except ModuleNotFoundError:
        _log.info("faiss is not installed, numpy compares instead, several times slower: pip install 'trocar[index]'")
        return NumpyHashIndex(hashes)
    return FaissHashIndex(faiss, hashes)


class FaissHashIndex:
    """By faiss, about 10^9 pairs a second and core."""

    def __init__(self, faiss: Any, hashes: U8) -> None:
        self._index = faiss.IndexBinaryFlat(8 * hashes.shape[1])
        self._index.add(np.ascontiguousarray(hashes))

    def within(self, queries: U8, bits: int) -> tuple[I64, I64, I64]:
        """See `HashIndex`."""
        if not len(queries):
            return (np.zeros(0, np.int64),) * 3
        limits, apart, rows = self._index.range_search(np.ascontiguousarray(queries), bits + 1)
        query = np.repeat(np.arange(len(queries), dtype=np.int64), np.diff(limits.astype(np.int64)))
        return query, rows.astype(np.int64), apart.astype(np.int64)


class NumpyHashIndex:
    """By numpy."""

    def __init__(self, hashes: U8) -> None:
        self._words = np.ascontiguousarray(hashes).view(np.uint64)

    def within(self, queries: U8, bits: int) -> tuple[I64, I64, I64]:
        """See `HashIndex`."""
        words = np.ascontiguousarray(queries).view(np.uint64)
        parts = [(np.zeros(0, np.int64),) * 3]
        at_once = max(1, _PAIRS // max(1, len(self._words)))
        for start in range(0, len(words), at_once):
            apart = _differing(words[start : start + at_once], self._words)
            query, row = np.nonzero(apart <= bits)
            parts.append((query + start, row, apart[query, row].astype(np.int64)))
        query, row, found = (np.concatenate(column) for column in zip(*parts, strict=True))
        return query, row, found


def _differing(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """int32[m, n]: bits in which uint64[m, words] and uint64[n, words] differ."""
    apart = np.zeros((len(one), len(other)), np.int32)
    for word in range(one.shape[1]):
        apart += _ones(one[:, None, word] ^ other[None, :, word])
    return apart


if hasattr(np, "bitwise_count"):

    def _ones(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        ones: npt.NDArray[np.uint8] = np.bitwise_count(words)
        return ones

else:  # numpy 1
    _ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)

    def _ones(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        ones: npt.NDArray[np.uint8] = _ONES[words[..., None].view(np.uint8)].sum(-1, dtype=np.uint8)
        return ones
