"""Isolated pictures of different cases that look alike: the cases may be one patient's, and a split would cut them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trocar.data.catalog.catalog import to_numpy
from trocar.data.catalog.writer import VideoEntry

MOST = 50_000
"""Stills that are compared, spread over all: 2.5 x 10^9 pairs are a few seconds."""
_BLOCK = 512


def alike_stills(videos: Sequence[VideoEntry]) -> str | None:
    """In words, how many stills look like one of another case, by the leak guard's threshold; None where none does.

    Pictures without structure (black, fog) look like each other in every operation and do not count.
    """
    from trocar.data.leak.content import RADIUS
    from trocar.data.leak.pictures import LEAST_BITS, set_bits

    stills = [video for video in videos if video.fps == 0]
    stills = stills[:: -(-len(stills) // MOST)] if stills else []
    if len(stills) < 2:
        return None
    hashes = np.concatenate([to_numpy(still.quality["dhash"]) for still in stills])
    cases = [(still.source, still.case_id) for still in stills]
    places = np.flatnonzero(set_bits(hashes) >= LEAST_BITS)
    numbers = {case: number for number, case in enumerate(dict.fromkeys(cases))}
    case = np.array([numbers[cases[place]] for place in places.tolist()], np.int64)
    near = _cases_near(hashes[places], case, RADIUS)
    alike = np.flatnonzero((near != case[:, None]).any(1))
    if not len(alike):
        return None
    one = int(alike[0])
    others = np.flatnonzero(np.isin(case, near[one][near[one] != case[one]]))
    other = others[np.argmin(set_bits(hashes[places][others] ^ hashes[places][one]))]
    example = f"{stills[places[one]].name} and {stills[places[other]].name}"
    return (
        f"{len(alike)} of {len(stills)} stills look like a still of another case (at most {RADIUS} of the 256 bits of "
        f"their hashes differ), such as {example}. Pictures of one patient in training and test are a leak: give "
        "videos.csv a case_id column, or --case-regex on their paths"
    )


def _cases_near(hashes: npt.NDArray[np.uint8], case: npt.NDArray[np.int64], radius: int) -> npt.NDArray[np.int64]:
    """int64[n, 2]: the lowest and the highest number of a case among the pictures within the radius of each one of
    uint8[n, 32], itself among them.
    """
    import faiss

    # Equal hashes are compared once: a thousand copies would be a million pairs.
    distinct, which = np.unique(hashes, axis=0, return_inverse=True)
    which = which.reshape(-1)
    lowest, highest = np.full(len(distinct), len(case)), np.full(len(distinct), -1)
    np.minimum.at(lowest, which, case)
    np.maximum.at(highest, which, case)
    index = faiss.IndexBinaryFlat(8 * hashes.shape[1])
    index.add(distinct)
    near = np.empty((len(distinct), 2), np.int64)
    for start in range(0, len(distinct), _BLOCK):
        limits, _, rows = index.range_search(distinct[start : start + _BLOCK], radius + 1)
        begins = limits[:-1].astype(np.int64)  # each finds itself, so none is empty
        near[start : start + _BLOCK, 0] = np.minimum.reduceat(lowest[rows], begins)
        near[start : start + _BLOCK, 1] = np.maximum.reduceat(highest[rows], begins)
    return near[which]
