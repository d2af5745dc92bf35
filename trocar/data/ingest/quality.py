"""Quality verdicts of a stored frame: columns for curation to filter by, never deletions.

Everything is computed from the decoded stored JPEG, so the same bytes always get the same verdicts. Lengths are in
pixels of an analysis image whose short side is at most ANALYSIS_SIDE. `benchmarks/curation.py` measures
how often the verdicts are wrong on real laparoscopies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from trocar.data.catalog.catalog import QUALITY_SCHEMA

Integers: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

ANALYSIS_SIDE = 224
BLACK_P99 = 32.0
"""black: 99 % of the pixels have a luma below this (0..255); text in a corner does not matter."""
UNIFORM_STD = 8.0
"""uniform: the standard deviation of the luma is below this."""
BLURRED_SHARPNESS = 0.3
"""blurred: `sharpness` (see `FrameMeasures`) is below this."""
TISSUE_SHARE = 0.4
"""A frame with this share of tissue-coloured pixels among its lit ones has an out_of_body score of 0."""
NEAR_DUPLICATE_BITS = 6
"""near_duplicate: at most this many of the 256 dhash bits differ from the previous kept frame."""
COPY_BITS = 24
"""Pictures of which at most this many dhash bits differ are copies of one picture (measured in docs/leaks.md)."""
LEAST_BITS = 40
"""Fewer set dhash bits than this: black, blank or fog, which looks the same in every operation."""

_DARK, _LIT, _GLARE = 20, 30, 235
_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)


@dataclass(frozen=True)
class FrameMeasures:
    """What the verdicts on one frame rest on.

    Attributes:
        luma_mean, luma_std: of the luma (ITU-R BT.601), 0..255.
        luma_p99: its 99th percentile.
        sharpness: 99th percentile of the absolute 4-neighbour Laplacian over the standard deviation of the
            luma, both inside the lit content; the ratio makes it independent of exposure and contrast. The
            Laplacian as a focus
            measure: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
        out_of_body: 0..1, one minus the share of tissue-coloured pixels (red above green and blue by 10 %
            and 5 %) among lit pixels that are no glare, scaled so that TISSUE_SHARE gives 0. Operating
            room, drapes, menus and noise are blue, green or grey. Faces and bare skin are red as well: such
            frames are missed.
        dhash: 256-bit difference hash (32 bytes): 17 x 16 luma means, each bit whether a cell is darker
            than the next one to its right.
    """

    luma_mean: float
    luma_std: float
    luma_p99: float
    sharpness: float
    out_of_body: float
    dhash: bytes


def measure(image: Image.Image) -> FrameMeasures:
    """Measure one RGB image of any size."""
    small = _shrink(image)
    grey = small.convert("L")
    counts = np.array(grey.histogram())
    mean, std = _moments(counts)
    return FrameMeasures(
        luma_mean=mean,
        luma_std=std,
        luma_p99=_percentile(counts, 99),
        sharpness=_sharpness(np.asarray(grey).astype(np.int16)),
        out_of_body=_out_of_body(np.asarray(small)),
        dhash=dhash(image),
    )


def dhash(image: Image.Image) -> bytes:
    """256-bit difference hash of an image, 32 bytes, row by row, most significant bit first."""
    return differences(cells(image)).tobytes()


def cells(image: Image.Image) -> npt.NDArray[np.int16]:
    """int16[16, 17]: the mean lumas (0..255) whose differences `dhash` is made of."""
    return np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)


def differences(lumas: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """uint8[32]: the bits of `dhash` of int16[16, 17]."""
    return np.packbits(lumas[:, :-1] < lumas[:, 1:])


def hamming(first: bytes, second: bytes) -> int:
    """Number of bits in which two hashes differ."""
    return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()


def set_bits(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Number of set bits of uint8[..., 32]."""
    count: npt.NDArray[Any] = _SET[hashes].sum(-1, dtype=np.int64)
    return count


def distance(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Differing bits of uint8[..., 32] and uint8[..., 32]."""
    return set_bits(one ^ other)


def quality_table(measures: Sequence[FrameMeasures]) -> pa.Table:
    """QUALITY_SCHEMA rows for the frames of one video in time order."""
    distances, duplicates = _duplicates([m.dhash for m in measures])
    p99 = np.array([m.luma_p99 for m in measures], np.float32)
    sharpness = np.array([m.sharpness for m in measures], np.float32)
    columns: dict[str, Any] = {
        name: np.array([getattr(m, name) for m in measures], np.float32)
        for name in ("luma_mean", "luma_std", "out_of_body")
    }
    return pa.table(
        {
            "black": p99 < BLACK_P99,
            "uniform": columns["luma_std"] < UNIFORM_STD,
            "blurred": (sharpness < BLURRED_SHARPNESS) & (p99 >= BLACK_P99),
            "out_of_body": columns["out_of_body"],
            "near_duplicate": duplicates,
            "luma_mean": columns["luma_mean"],
            "luma_std": columns["luma_std"],
            "sharpness": sharpness,
            "dhash_distance": np.array(distances, np.uint16),
            "dhash": pa.array([m.dhash for m in measures], pa.binary(32)),
        },
        schema=QUALITY_SCHEMA,
    )


def judged_again(rows: pa.Table) -> pa.Table:
    """Rows with the columns of QUALITY_SCHEMA, in time order, with what a frame owes to the one before it put right."""
    distances, duplicates = _duplicates(rows["dhash"].to_pylist())
    at = rows.column_names.index
    rows = rows.set_column(at("dhash_distance"), "dhash_distance", pa.array(distances, pa.uint16()))
    return rows.set_column(at("near_duplicate"), "near_duplicate", pa.array(duplicates))


def _duplicates(hashes: Sequence[bytes]) -> tuple[list[int], np.ndarray[Any, Any]]:
    # The first frame has no predecessor: 256, which no pair of hashes of real pictures reaches.
    kept: bytes | None = None
    distances = []
    for value in hashes:
        distances.append(256 if kept is None else hamming(kept, value))
        if distances[-1] > NEAR_DUPLICATE_BITS:
            kept = value
    return distances, np.array(distances, np.int64) <= NEAR_DUPLICATE_BITS


def _shrink(image: Image.Image) -> Image.Image:
    short = min(image.size)
    if short <= ANALYSIS_SIDE:
        return image
    scale = ANALYSIS_SIDE / short
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BOX)


def _sharpness(luma: Integers) -> float:
    if min(luma.shape) < 3:
        return 0.0
    up, down, left, right = luma[:-2, 1:-1], luma[2:, 1:-1], luma[1:-1, :-2], luma[1:-1, 2:]
    centre = luma[1:-1, 1:-1]
    lowest = np.minimum(np.minimum(np.minimum(up, down), np.minimum(left, right)), centre)
    inside = lowest > _DARK  # the rim of the round image is an edge, but none of the scene
    if np.count_nonzero(inside) < 100:
        return 0.0
    laplacian = np.abs(up + down + left + right - 4 * centre)[inside]
    return _percentile(np.bincount(laplacian), 99) / max(_moments(np.bincount(centre[inside]))[1], 1.0)


def _out_of_body(pixels: Integers) -> float:
    # A share needs no fine resolution: every second pixel of every second row.
    red, green, blue = np.moveaxis(pixels[::2, ::2].astype(np.int32), -1, 0)
    lit = 299 * red + 587 * green + 114 * blue > 1000 * _LIT
    lit &= np.minimum(np.minimum(red, green), blue) < _GLARE
    count = int(np.count_nonzero(lit))
    if count < 0.01 * lit.size:
        return 0.0
    tissue = np.count_nonzero(lit & (10 * red > 11 * green) & (20 * red > 21 * blue))
    return max(0.0, 1.0 - tissue / (TISSUE_SHARE * count))


def _moments(counts: Integers) -> tuple[float, float]:
    """Mean and standard deviation of values of which there are counts[value]."""
    values = np.arange(len(counts))
    total = counts.sum()
    mean = counts @ values / total
    return float(mean), float(np.sqrt(counts @ (values - mean) ** 2 / total))


def _percentile(counts: Integers, percent: float) -> float:
    """`np.percentile` of values of which there are counts[value], without sorting them."""
    cumulated = np.cumsum(counts)
    position = percent / 100 * (int(cumulated[-1]) - 1)
    low, high = np.searchsorted(cumulated, [int(position), min(int(position) + 1, int(cumulated[-1]) - 1)], "right")
    return float(low + (high - low) * (position - int(position)))
