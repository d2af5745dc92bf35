"""The k nearest vectors of other groups, with faiss: exact by blocks, or in an inverted file for large sets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from trocar.core.extras import extra
from trocar.core.progress import track
from trocar.core.random import I64

F32 = npt.NDArray[np.float32]

QUERIES = 1024  # of a block
EXACT_UP_TO = 200_000
"""Vectors that are searched exactly: every pair is compared, minutes on a few cores at this number, growing with its
square. Above, an inverted file of 4 sqrt(n) lists looks into the 64 nearest ones."""
PROBES = 64


def nearest_of_other_groups(vectors: F32, groups: I64, k: int, *, exact: bool) -> Iterator[tuple[slice, I64, F32]]:
    """For blocks of L2-normalised vectors float32[n, D], sorted by groups int64[n]: which, and their k nearest.

    Yields (slice of the n, positions int64[m, k] nearest first or -1, Euclidean distances float32[m, k] or infinity).
    """
    index = None if exact else _inverted_file(vectors)
    bounds = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    blocks = [
        (slice(start, min(start + QUERIES, high)), low, high)
        for low, high in pairwise(bounds)
        for start in range(low, high, QUERIES)
    ]
    for block, low, high in track(blocks, "search neighbours", len(blocks)):
        queries = vectors[block]
        found = _compare(vectors, queries, low, high, k) if index is None else _probe(index, queries, low, high, k)
        yield block, *_sorted(vectors, queries, found, k)


def require_faiss() -> Any:
    """The module. Raises ConfigError where it is not installed."""
    with extra("index"):
        import faiss
    return faiss


def use_threads(count: int) -> None:
    """Let faiss use so many; without this it takes OMP_NUM_THREADS, or all cores."""
    require_faiss().omp_set_num_threads(count)


def _compare(vectors: F32, queries: F32, low: int, high: int, k: int) -> I64:
    """The k best in front of a group, and the k best behind it: positions, in no order."""
    faiss = require_faiss()
    found = []
    for start, part in ((0, vectors[:low]), (high, vectors[high:])):
        if len(part):
            _, at = faiss.knn(queries, part, min(k, len(part)), metric=faiss.METRIC_INNER_PRODUCT)
            found.append(at + start)
    return np.concatenate(found, axis=1) if found else np.full((len(queries), k), -1, np.int64)


def _inverted_file(vectors: F32) -> Any:
    faiss = require_faiss()
    lists = 4 * math.isqrt(len(vectors))
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // (64 * lists))]))
    index.add(vectors)
    return index


def _probe(index: Any, queries: F32, low: int, high: int, k: int) -> I64:
    faiss = require_faiss()
    others = faiss.IDSelectorNot(faiss.IDSelectorRange(low, high))
    _, at = index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=PROBES, sel=others))
    found: I64 = at
    return found


def _sorted(vectors: F32, queries: F32, found: I64, k: int) -> tuple[I64, F32]:
    # From differences: what an inner product of unit vectors says of two that are almost equal is rounding.
    apart = np.linalg.norm(vectors[found] - queries[:, None], axis=-1)
    distances = np.where(found >= 0, apart, np.inf).astype(np.float32)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    rows, distances = np.take_along_axis(found, order, 1), np.take_along_axis(distances, order, 1)
    missing = ((0, 0), (0, k - rows.shape[1]))
    return np.pad(rows, missing, constant_values=-1), np.pad(distances, missing, constant_values=np.inf)
