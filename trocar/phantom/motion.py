"""Smooth random motion, and what stands where at one instant."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trocar.phantom.picture.materials import Rng
from trocar.phantom.picture.stage import Stamp

Track = npt.NDArray[np.float64]


def wander(rng: Rng, frames: int, fps: float, period: float) -> Track:
    """Smooth noise [frames] of about unit variance that changes over `period` seconds."""
    time = np.arange(frames) / fps
    total = np.zeros(frames)
    for factor in (0.45, 0.7, 1.0, 1.6, 2.4):
        phase, turn = rng.uniform(0, 2 * np.pi), float(rng.uniform(0.85, 1.15))
        total += np.sin(2 * np.pi * time * factor * turn / period + phase)
    return np.asarray(total * np.sqrt(2 / 5))


def follow(target: Track, fps: float, seconds: float) -> Track:
    """A first-order lag [frames, ...] behind `target` with time constant `seconds`."""
    keep = float(np.exp(-1 / (fps * seconds)))
    out = np.empty_like(target)
    state = target[0]
    for i, value in enumerate(target):
        state = keep * state + (1 - keep) * value
        out[i] = state
    return out


def ease(t: float) -> float:
    """Smooth step from 0 to 1."""
    t = min(1.0, max(0.0, t))
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class Camera:
    """View centre in world units, zoom (1 = one unit fills the view's height), roll in radians."""

    x: float
    y: float
    zoom: float
    roll: float


@dataclass(frozen=True)
class ToolPose:
    """An instrument: tip in world units, direction of its axis towards the tip (radians), size, jaws, side."""

    kind: int
    x: float
    y: float
    angle: float
    size: float
    opening: int
    flipped: bool
    slot: int


@dataclass(frozen=True)
class SpritePose:
    """Organ or bag: world position of its origin, axis direction, stretch along and across the axis."""

    x: float
    y: float
    angle: float
    along: float = 1.0
    across: float = 1.0


@dataclass(frozen=True)
class Moment:
    """Everything the renderer needs for one frame."""

    frame: int
    phase: int
    camera: Camera
    tools: tuple[ToolPose, ...]
    organ: SpritePose | None
    bag: SpritePose | None
    stamps: tuple[Stamp, ...]
    smoke: float
    """0 to 1."""
    fog: float
    """Mist on the lens, 0 to 1."""
    criteria: tuple[bool, bool, bool] | None
    """CVS criteria C1, C2, C3, or None once a structure of the pedicle is divided."""
    cvs_margin: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))
    """How far each criterion is from its threshold: annotators disagree near 0."""
