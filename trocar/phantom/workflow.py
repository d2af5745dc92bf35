"""The course of one operation: which phase each frame belongs to.

Durations vary log-normally, phases are skipped, repeated and reordered, so the time in the video says little by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trocar.phantom.picture.textures import Rng
from trocar.phantom.spec import CLEANING, CLIPPING, DISSECTION, PACKAGING, PEDICLE, PREPARATION

# Orders and their shares: organ first or pedicle first are both techniques in use; hysterectomy treats two sides.
ORDERS: dict[str, list[tuple[float, tuple[int, ...]]]] = {
    "cholecystectomy": [
        (0.75, (PEDICLE, CLIPPING, DISSECTION)),
        (0.25, (DISSECTION, PEDICLE, CLIPPING)),
    ],
    "sleeve_gastrectomy": [
        (0.7, (DISSECTION, PEDICLE, CLIPPING)),
        (0.3, (PEDICLE, DISSECTION, CLIPPING)),
    ],
    "hysterectomy": [
        (0.6, (PEDICLE, CLIPPING, PEDICLE, CLIPPING, DISSECTION)),
        (0.4, (DISSECTION, PEDICLE, CLIPPING, DISSECTION)),
    ],
}
WEIGHTS = {PREPARATION: 1.7, PEDICLE: 2.2, CLIPPING: 1.6, DISSECTION: 2.2, PACKAGING: 1.7, CLEANING: 1.5}
SPREAD = 0.55


@dataclass(frozen=True)
class Segment:
    """Frames [start, end) of one phase."""

    phase: int
    start: int
    end: int


def make_timeline(rng: Rng, procedure: str, frames: int) -> list[Segment]:
    """Segments that cover [0, frames) without gaps; two neighbours never have the same phase."""
    order = _order(rng, procedure)
    weights = np.array([WEIGHTS[p] / (1.6 if order.count(p) > 1 else 1) for p in order])
    weights *= np.exp(rng.normal(0, SPREAD, len(order)))
    weights = np.maximum(weights / weights.sum(), 0.02)
    edges = np.round(np.cumsum(weights) / weights.sum() * frames).astype(int)
    starts = [0, *edges[:-1].tolist()]
    pairs = zip(order, starts, edges.tolist(), strict=True)
    return [Segment(phase, start, end) for phase, start, end in pairs if end > start]


def _order(rng: Rng, procedure: str) -> list[int]:
    shares = [share for share, _ in ORDERS[procedure]]
    core = list(ORDERS[procedure][int(rng.choice(len(shares), p=shares))][1])
    order: list[int] = [] if rng.random() < 0.25 else [PREPARATION]
    for position, phase in enumerate(core):
        order.append(phase)
        if phase == DISSECTION and rng.random() < 0.45:
            order += [CLEANING, DISSECTION]
        if rng.random() < 0.22 and position < len(core) - 1:
            order.append(CLEANING)
    if rng.random() < 0.4:
        order.append(CLEANING)
    # A recording that was stopped early has no packaging.
    if rng.random() < 0.88:
        order.append(PACKAGING)
        if rng.random() < 0.45:
            order.append(CLEANING)
    return [p for i, p in enumerate(order) if i == 0 or p != order[i - 1]]


def progress(segments: list[Segment], phase: int, frames: int) -> npt.NDArray[np.float64]:
    """How much of a phase's work is done at each frame, 0 to 1 over all its segments together."""
    active = np.zeros(frames)
    for segment in segments:
        if segment.phase == phase:
            active[segment.start : segment.end] = 1
    total = active.sum()
    return np.asarray(np.cumsum(active) / total if total else active)
