"""faiss and numpy find the same pairs of hashes."""

import sys

import numpy as np
import pytest

from trocar.core.hamming import FaissHashIndex, NumpyHashIndex, hash_index


def hashes(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 32), np.uint8)


def altered(rows, bits, seed):
    """A copy of each hash in which so many of its bits are others."""
    rng = np.random.default_rng(seed)
    changed = np.unpackbits(rows, axis=1)
    for row in changed:
        row[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(changed, axis=1)


def ordered(found):
    return sorted(zip(*(column.tolist() for column in found), strict=True))


@pytest.mark.parametrize("pairs", [1 << 22, 100])
def test_both_find_the_same_pairs(monkeypatch, pairs):
    monkeypatch.setattr("trocar.core.hamming._PAIRS", pairs)
    known = hashes(60, 0)
    queries = np.concatenate([altered(known[10:20], 24, 1), altered(known[20:30], 25, 2), hashes(20, 3), known[:2]])
    by_faiss, by_numpy = hash_index(known).within(queries, 24), NumpyHashIndex(known).within(queries, 24)
    assert isinstance(hash_index(known), FaissHashIndex)
    expected = [(i, 10 + i, 24) for i in range(10)] + [(40, 0, 0), (41, 1, 0)]
    assert ordered(by_faiss) == ordered(by_numpy) == expected
    assert ordered(hash_index(known).within(queries, 110)) == ordered(NumpyHashIndex(known).within(queries, 110))


def test_without_faiss_numpy_compares(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert isinstance(hash_index(hashes(3, 0)), NumpyHashIndex)


@pytest.mark.parametrize("kind", [hash_index, NumpyHashIndex])
def test_nothing_is_near_nothing(kind):
    assert [len(column) for column in kind(hashes(5, 0)).within(hashes(0, 1), 24)] == [0, 0, 0]
    assert [len(column) for column in kind(hashes(5, 0)).within(hashes(4, 1), 24)] == [0, 0, 0]
