"""What a phantom consists of: the parameters a user sets, the label spaces, the plan of a case, and the course of its
operation: which phase each frame belongs to, and which instruments work in which phase.

Durations vary log-normally, phases are skipped, repeated and reordered, so the time in the video says little by
itself. A segment of instruments' work is a sequence of bouts of a few seconds each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from trocar.core.config import Config
from trocar.phantom.materials import Rng

# Raised whenever one pixel or one label of any video changes; numbers measured on different versions never compare.
GENERATOR_VERSION = 3

PHASES = (
    "Preparation",
    "PedicleDissection",
    "ClippingCutting",
    "OrganDissection",
    "SpecimenPackaging",
    "CleaningCoagulation",
)
PREPARATION, PEDICLE, CLIPPING, DISSECTION, PACKAGING, CLEANING = range(len(PHASES))

# Names and order of Cholec80's tool annotation files.
TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")
GRASPER, BIPOLAR, HOOK, SCISSORS, CLIPPER, IRRIGATOR, BAG = range(len(TOOLS))

CLASSES = (
    "background",
    "solid_organ",
    "target_organ",
    "fat_connective",
    "duct_vessel",
    "instrument",
    "specimen_bag",
    "blood",
)
(
    BACKGROUND,
    SOLID_ORGAN,
    TARGET_ORGAN,
    FAT_CONNECTIVE,
    DUCT_VESSEL,
    INSTRUMENT,
    SPECIMEN_BAG,
    BLOOD,
) = range(len(CLASSES))

HOSPITALS = ("north", "south")
PROCEDURES = ("cholecystectomy", "sleeve_gastrectomy", "hysterectomy")

CVS_INTERVAL_S = 5

CORPORA = {"pages": 0, "A": 1, "B": 2, "acceptance": 3}
"""Seed by purpose (docs/phantom.md): what is shown, what choices are made on, what confirms them, and what the
generator itself was judged by.
"""


def corpus_of(seed: int) -> str | None:
    """The name of the corpus that a seed belongs to; None for a seed that is nobody's."""
    return next((name for name, own in CORPORA.items() if own == seed), None)


class Talk(Config):
    """How much of what is said can be believed; none of it changes a picture or another label."""

    offset_s: float = Field(default=1.5, ge=0, description="standard deviation in seconds of when a thing is said")
    omitted: float = Field(default=0.2, ge=0, le=1, description="share of clips and phases of which nothing is said")
    off_topic: float = Field(
        default=0.1, ge=0, le=1, description="share of the sentences on clips that are about something else"
    )
    errors: float = Field(default=0.05, ge=0, le=1, description="share of the words that a transcriber gets wrong")


class PhantomSpec(Config):
    """Parameters of a phantom. A video depends on all of them but `cases`: more cases never change earlier ones."""

    cases: int = Field(
        default=20,
        ge=1,
        le=9999,
        description="operations, 1 to 9999; every fifth is recorded in two files, so there are more videos than cases",
    )
    minutes: float = Field(
        default=2.0,
        gt=0,
        le=240,
        description="mean length of an operation in minutes, 0.1 to 240; each is 0.8 to 1.2 times as long",
    )
    size: tuple[int, int] = Field(
        default=(320, 240), description="width and height in pixels, even numbers from 64 to 1920"
    )
    fps: int = Field(default=5, ge=1, le=60, description="frames per second, 1 to 60")
    seed: int = Field(default=0, ge=0, description="seed of everything in it")
    talk: Talk = Field(default=Talk(), description="how much of what is said can be believed")

    @field_validator("size", mode="before")
    @classmethod
    def _parse_size(cls, value: Any) -> Any:
        match = re.fullmatch(r"(\d+)\s*x\s*(\d+)", value) if isinstance(value, str) else None
        return (int(match[1]), int(match[2])) if match else value

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < 64 or side > 1920 or side % 2 for side in value):
            raise ValueError("width and height must be even numbers from 64 to 1920, such as 320x240")
        return value

    @field_validator("minutes")
    @classmethod
    def _check_minutes(cls, value: float) -> float:
        if value < 0.1:
            raise ValueError("an operation needs at least 0.1 minutes to hold its phases")
        return value


class CasePlan(Config):
    """One operation: where it took place, what was done, how it was recorded."""

    index: int = Field(description="number of the operation, from 0")
    hospital: Literal["north", "south"] = Field(description="where it took place")
    procedure: Literal["cholecystectomy", "sleeve_gastrectomy", "hysterectomy"] = Field(description="what was done")
    robotic: bool = Field(description="whether a robot was used")
    split: Literal["train", "val", "test"] = Field(description="the part of the data set that it belongs to")
    frames: int = Field(description="native frames of the whole operation")
    cut: int | None = Field(description="first frame of the second file; null: the operation is one file")

    @property
    def case_id(self) -> str:
        """Its id in the labels, such as case01."""
        return f"case{self.index + 1:02d}"

    @property
    def parts(self) -> list[tuple[str, int, int]]:
        """(file stem, first frame, end frame) per file, in time order."""
        stem = f"video{self.index + 1:02d}"
        if self.cut is None:
            return [(stem, 0, self.frames)]
        return [(f"{stem}_1", 0, self.cut), (f"{stem}_2", self.cut, self.frames)]


# Orders and their shares: organ first or pedicle first are both techniques in use; hysterectomy treats two sides.
ORDERS: dict[str, list[tuple[float, tuple[int, ...]]]] = {
    "cholecystectomy": [
        (0.6, (PEDICLE, CLIPPING, DISSECTION)),
        (0.4, (DISSECTION, PEDICLE, CLIPPING)),
    ],
    "sleeve_gastrectomy": [
        (0.6, (DISSECTION, PEDICLE, CLIPPING)),
        (0.4, (PEDICLE, DISSECTION, CLIPPING)),
    ],
    "hysterectomy": [
        (0.6, (PEDICLE, CLIPPING, PEDICLE, CLIPPING, DISSECTION)),
        (0.4, (DISSECTION, PEDICLE, CLIPPING, DISSECTION)),
    ],
}
WEIGHTS = {PREPARATION: 1.7, PEDICLE: 2.2, CLIPPING: 1.6, DISSECTION: 2.2, PACKAGING: 1.7, CLEANING: 1.5}
SPREAD = 0.75


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
    order: list[int] = [] if rng.random() < 0.35 else [PREPARATION]
    for position, phase in enumerate(core):
        order.append(phase)
        if phase == DISSECTION and rng.random() < 0.45:
            order += [CLEANING, DISSECTION]
        if rng.random() < 0.22 and position < len(core) - 1:
            order.append(CLEANING)
    if rng.random() < 0.4:
        order.append(CLEANING)
    # A recording that was stopped early has no packaging.
    if rng.random() < 0.8:
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
