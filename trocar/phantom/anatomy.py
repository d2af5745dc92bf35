"""Where things are in the body of one patient. World units: 1 is the height of the view at zoom 1; x right, y down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trocar.phantom.materials import Array, Rng

Points = npt.NDArray[np.float64]

WORLD_HALF = (1.5, 1.3)
"""Half width and half height of the world canvas."""


@dataclass(frozen=True)
class Shape:
    """A target organ: half width along its axis, from neck (s = 0) to fundus (s = 1), and how much the axis bends."""

    length: float
    widths: tuple[float, ...]
    bend: float

    def half_width(self, s: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Half widths in world units at positions `s` in 0..1 along the axis."""
        return np.asarray(np.interp(s, np.linspace(0, 1, len(self.widths)), self.widths))

    def depth(self, along: npt.NDArray[np.floating], across: npt.NDArray[np.floating]) -> Array:
        """Signed distance-like field: > 0 inside, about the distance to the outline in units."""
        s = np.clip(along / self.length, 0, 1)
        centre = self.bend * 4 * s * (1 - s)
        beyond = np.maximum(np.maximum(-along, along - self.length), 0)
        reach = np.sqrt(np.maximum(1 - (2 * np.maximum(s, 0.5) - 1) ** 4, 0)) * 0.35 + 0.65
        return np.asarray(self.half_width(s) * reach - np.hypot(across - centre, beyond * 2.5), dtype=np.float32)


SHAPES = {
    "cholecystectomy": Shape(0.85, (0.055, 0.1, 0.17, 0.21, 0.2, 0.13), 0.05),
    "sleeve_gastrectomy": Shape(1.15, (0.12, 0.19, 0.22, 0.24, 0.24, 0.16), 0.17),
    "hysterectomy": Shape(0.75, (0.12, 0.16, 0.22, 0.28, 0.3, 0.2), 0.0),
}


@dataclass(frozen=True)
class Anatomy:
    """Positions in world units of what instruments act on."""

    shape: Shape
    angle: float
    """Direction from the organ's neck to its fundus, radians."""
    neck: Points
    hilum: Points
    tubes: tuple[Points, Points]
    """Polylines [n, 2] of duct and artery, from the neck to the hilum."""
    tube_widths: tuple[float, float]
    cover_points: Points
    """Points [n, 2] over the pedicle in the order in which they are dissected."""
    bed_points: Points
    """Points [n, 2] of the organ's bed, from neck to fundus, as it is peeled off."""

    def along_tube(self, tube: int, fraction: float) -> Points:
        """The world position [2] at a `fraction` in 0..1 of the way along a tube, 0 the duct and 1 the artery."""
        line = self.tubes[tube]
        at = fraction * (len(line) - 1)
        low = min(int(at), len(line) - 2)
        return np.asarray(line[low] + (at - low) * (line[low + 1] - line[low]))

    def tube_direction(self, tube: int, fraction: float) -> float:
        """Direction of a tube there, in radians."""
        step = self.along_tube(tube, min(1, fraction + 0.05)) - self.along_tube(tube, max(0, fraction - 0.05))
        return float(np.arctan2(step[1], step[0]))

    def on_organ(self, along: float, across: float) -> Points:
        """World position of an organ-local point while the organ is in its home pose."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.asarray(self.neck + np.array([c * along - s * across, s * along + c * across]))


def make_anatomy(rng: Rng, procedure: str) -> Anatomy:
    """Draw one patient's anatomy: sizes +-15 %, axis direction +-35 degrees about up, left or right handed."""
    base = SHAPES[procedure]
    scale = float(rng.uniform(0.88, 1.12))
    widths = tuple(w * scale * float(rng.uniform(0.88, 1.15)) for w in base.widths)
    handed = float(rng.choice([-1.0, 1.0]))
    shape = Shape(base.length * scale, widths, base.bend * handed + float(rng.normal(0, 0.03)))
    angle = -np.pi / 2 + float(rng.uniform(-0.6, 0.6))
    neck = np.array([rng.uniform(-0.15, 0.15), rng.uniform(0.1, 0.25)])
    axis = np.array([np.cos(angle), np.sin(angle)])
    side = np.array([-axis[1], axis[0]]) * handed
    hilum = neck - axis * rng.uniform(0.34, 0.44) + side * rng.uniform(0.05, 0.2)
    tubes = (_tube(rng, neck, hilum, side, 0.03, 0.09), _tube(rng, neck, hilum, side, -0.06, -0.13))
    partial = Anatomy(
        shape, angle, neck, hilum, tubes, (0.032 * scale, 0.019 * scale), np.empty((0, 2)), np.empty((0, 2))
    )
    cover = _cover_points(rng, neck, hilum)
    return Anatomy(shape, angle, neck, hilum, tubes, partial.tube_widths, cover, _bed_points(rng, partial))


def _tube(rng: Rng, neck: Points, hilum: Points, side: Points, at_neck: float, bulge: float) -> Points:
    s = np.linspace(0, 1, 24)[:, None]
    wobble = np.sin(s * rng.uniform(4, 8) + rng.uniform(0, 6)) * 0.012 * (s * (1 - s) * 4)
    start = neck + side * at_neck
    end = hilum + side * (at_neck + rng.uniform(-0.02, 0.02))
    return np.asarray(start + (end - start) * s + side * (bulge * 4 * s * (1 - s) * 0.8 + wobble))


def _cover_points(rng: Rng, neck: Points, hilum: Points, count: int = 60) -> Points:
    axis = hilum - neck
    length = float(np.hypot(*axis))
    axis = axis / length
    normal = np.array([-axis[1], axis[0]])
    along = rng.uniform(-0.05, 1.02, count) * length
    across = rng.uniform(-0.2, 0.2, count)
    order = np.argsort(along + rng.normal(0, 0.08, count))
    return np.asarray(neck + along[order, None] * axis + across[order, None] * normal)


def _bed_points(rng: Rng, anatomy: Anatomy, count: int = 60) -> Points:
    along = np.linspace(0.02, 0.95, count) * anatomy.shape.length
    width = anatomy.shape.half_width(along / anatomy.shape.length)
    across = rng.uniform(-0.75, 0.75, count) * width
    s = along / anatomy.shape.length
    bent = across + anatomy.shape.bend * 4 * s * (1 - s)
    return np.stack([anatomy.on_organ(float(a), float(b)) for a, b in zip(along, bent, strict=True)])
