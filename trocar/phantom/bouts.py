"""Which instruments work in which phase: a segment is a sequence of bouts of a few seconds each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trocar.phantom.picture.textures import Rng
from trocar.phantom.spec import (
    BIPOLAR,
    CLEANING,
    CLIPPER,
    CLIPPING,
    DISSECTION,
    GRASPER,
    HOOK,
    IRRIGATOR,
    PACKAGING,
    PEDICLE,
    PREPARATION,
    SCISSORS,
)
from trocar.phantom.workflow import Segment

NONE = -1
Shares = Mapping[int, float]

# Every kind of instrument occurs in several phases, so that what it does matters and not only that it is there.
MAIN: Mapping[str, Mapping[int, Shares]] = {
    "cholecystectomy": {
        PREPARATION: {GRASPER: 0.6, NONE: 0.25, HOOK: 0.1, IRRIGATOR: 0.05},
        PEDICLE: {HOOK: 0.6, GRASPER: 0.15, BIPOLAR: 0.1, SCISSORS: 0.07, NONE: 0.08},
        CLIPPING: {CLIPPER: 0.75, GRASPER: 0.1, HOOK: 0.07, NONE: 0.08},
        DISSECTION: {HOOK: 0.62, BIPOLAR: 0.12, SCISSORS: 0.07, IRRIGATOR: 0.07, GRASPER: 0.05, NONE: 0.07},
        PACKAGING: {GRASPER: 0.8, NONE: 0.2},
        CLEANING: {IRRIGATOR: 0.5, BIPOLAR: 0.25, GRASPER: 0.1, NONE: 0.15},
    },
    "sleeve_gastrectomy": {
        PREPARATION: {GRASPER: 0.65, NONE: 0.25, BIPOLAR: 0.1},
        PEDICLE: {BIPOLAR: 0.4, HOOK: 0.2, SCISSORS: 0.2, GRASPER: 0.12, NONE: 0.08},
        CLIPPING: {CLIPPER: 0.78, GRASPER: 0.14, NONE: 0.08},
        DISSECTION: {BIPOLAR: 0.5, HOOK: 0.2, SCISSORS: 0.15, IRRIGATOR: 0.07, NONE: 0.08},
        PACKAGING: {GRASPER: 0.8, NONE: 0.2},
        CLEANING: {IRRIGATOR: 0.5, BIPOLAR: 0.25, GRASPER: 0.1, NONE: 0.15},
    },
    "hysterectomy": {
        PREPARATION: {GRASPER: 0.55, NONE: 0.25, SCISSORS: 0.1, IRRIGATOR: 0.1},
        PEDICLE: {BIPOLAR: 0.35, SCISSORS: 0.35, HOOK: 0.15, GRASPER: 0.07, NONE: 0.08},
        CLIPPING: {CLIPPER: 0.6, BIPOLAR: 0.2, GRASPER: 0.12, NONE: 0.08},
        DISSECTION: {HOOK: 0.4, SCISSORS: 0.25, BIPOLAR: 0.2, IRRIGATOR: 0.07, NONE: 0.08},
        PACKAGING: {GRASPER: 0.75, HOOK: 0.05, NONE: 0.2},
        CLEANING: {IRRIGATOR: 0.45, BIPOLAR: 0.3, GRASPER: 0.1, NONE: 0.15},
    },
}
ASSISTANT = {PREPARATION: 0.35, PEDICLE: 0.75, CLIPPING: 0.65, DISSECTION: 0.8, PACKAGING: 0.45, CLEANING: 0.45}
SECOND_IRRIGATOR = {PEDICLE: 0.06, DISSECTION: 0.08, CLEANING: 0.2}


@dataclass(frozen=True)
class Bout:
    """Frames [start, end) in which the same instruments stay in; NONE for no main instrument."""

    segment: Segment
    start: int
    end: int
    main: int
    assistant: int
    third: int


def make_bouts(rng: Rng, procedure: str, segments: list[Segment], fps: float) -> list[Bout]:
    """Bouts of 2 to 8 s that cover all segments."""
    bouts: list[Bout] = []
    for segment in segments:
        start = segment.start
        while start < segment.end:
            length = max(2, round(fps * float(rng.uniform(2, 8))))
            # A rest shorter than half a bout is not worth an exchange of instruments.
            end = segment.end if segment.end - start < 1.5 * length else start + length
            bouts.append(_draw(rng, procedure, segment, start, end))
            start = end
    return bouts


def _draw(rng: Rng, procedure: str, segment: Segment, start: int, end: int) -> Bout:
    shares = MAIN[procedure][segment.phase]
    main = int(rng.choice(list(shares), p=list(shares.values())))
    assistant = GRASPER if rng.random() < ASSISTANT[segment.phase] else NONE
    third = IRRIGATOR if rng.random() < SECOND_IRRIGATOR.get(segment.phase, 0) and main != IRRIGATOR else NONE
    return Bout(segment, start, end, main, assistant, third)
