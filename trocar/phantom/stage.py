"""The world as the operation changes it: instruments leave marks on the canvas that stay. Smooth random motion, and
what stands where at one instant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from trocar.phantom.anatomy import WORLD_HALF
from trocar.phantom.materials import Array, Rng, spectral
from trocar.phantom.scene import Painted, Scene
from trocar.phantom.spec import BLOOD, INSTRUMENT

Action = Literal["expose", "divide", "clip", "blood", "wash", "char"]
BRUSHES = 8


@dataclass(frozen=True)
class Stamp:
    """One mark: what, where (world units), how large (radius), which brush outline or clip direction (radians)."""

    action: Action
    x: float
    y: float
    radius: float
    variant: float = 0.0


class Theatre:
    """The visible world canvas and its classes; `apply` changes both, nothing else does.

    `image` is uint8 [H, W, 4] (RGB and gloss), `label` uint8 [H, W], both at the scene's scale.
    """

    def __init__(self, scene: Scene, rng: Rng) -> None:
        self.scene = scene
        self._pixels = scene.covered.pixels.copy()
        self._label = scene.covered.label.copy()
        self._blood = np.zeros(self._label.shape, dtype=np.float32)
        self.image = self._pixels.copy()
        self.label = self._label.copy()
        self._brushes = [_brush(rng) for _ in range(BRUSHES)]

    def apply(self, stamp: Stamp) -> None:
        """Leave one mark; marks outside the canvas are ignored."""
        scale = self.scene.scale
        cx, cy = (stamp.x + WORLD_HALF[0]) * scale, (stamp.y + WORLD_HALF[1]) * scale
        half = max(2, round(stamp.radius * scale))
        left, top = round(cx) - half, round(cy) - half
        rows, columns = self._label.shape
        if left < 0 or top < 0 or left + 2 * half > columns or top + 2 * half > rows:
            return
        box = np.s_[top : top + 2 * half, left : left + 2 * half]
        mask = self._mask(stamp, half)
        if stamp.action == "expose":
            self._reveal(self.scene.exposed, box, mask)
        elif stamp.action == "divide":
            self._reveal(self.scene.divided, box, mask)
        elif stamp.action == "clip":
            self._clip(box, half, stamp.variant)
        elif stamp.action == "char":
            self._pixels[box] = self._pixels[box] * (1 - 0.75 * mask[..., None])
        elif stamp.action == "blood":
            self._blood[box] = np.maximum(self._blood[box], mask)
        else:
            self._blood[box] *= 1 - mask
        self._show(box)

    def _mask(self, stamp: Stamp, half: int) -> Array:
        brush = self._brushes[int(stamp.variant * 1000) % BRUSHES]
        small = brush.resize((2 * half, 2 * half), Image.Resampling.BILINEAR)
        return np.asarray(np.asarray(small, dtype=np.float32) / 255, dtype=np.float32)

    def _reveal(self, source: Painted, box: tuple[slice, slice], mask: Array) -> None:
        new, old = source.pixels[box].astype(np.float32), self._pixels[box].astype(np.float32)
        self._pixels[box] = old + mask[..., None] * (new - old)
        self._label[box] = np.where(mask > 0.5, source.label[box], self._label[box])

    def _clip(self, box: tuple[slice, slice], half: int, angle: float) -> None:
        # Drawn four times too large and reduced: ImageDraw has no antialiasing and a clip is a few pixels wide.
        image = Image.new("LA", (8 * half, 8 * half))
        c, s, mid = np.cos(angle), np.sin(angle), 4 * half
        draw = ImageDraw.Draw(image)
        for offset, tone, width in ((0.0, 40, 0.36), (0.0, 200, 0.22), (0.03, 250, 0.07)):
            dx, dy = 3.4 * half * c, 3.4 * half * s
            ox, oy = -s * offset * 8 * half, c * offset * 8 * half
            line = (mid - dx + ox, mid - dy + oy, mid + dx + ox, mid + dy + oy)
            draw.line(line, fill=(tone, 255), width=max(1, round(width * 4 * half)))
        drawn = np.asarray(image.resize((2 * half, 2 * half), Image.Resampling.BOX), dtype=np.float32)
        alpha = drawn[..., 1:] / 255
        grey = np.repeat(drawn[..., :1], 3, axis=2)
        old = self._pixels[box].astype(np.float32)
        self._pixels[box] = old + alpha * (np.concatenate([grey, 120 + 0 * alpha], axis=2) - old)
        self._label[box] = np.where(alpha[..., 0] > 0.5, INSTRUMENT, self._label[box])

    def _show(self, box: tuple[slice, slice]) -> None:
        pixels, blood = self._pixels[box].astype(np.float32), self._blood[box][..., None]
        relief = 0.55 + 0.45 * pixels[..., :3].mean(axis=-1, keepdims=True) / 128
        colour = np.asarray(self.scene.blood, dtype=np.float32) * relief
        wet = np.concatenate([colour, np.maximum(pixels[..., 3:], 60 * relief)], axis=-1)
        self.image[box] = np.clip(pixels + 0.92 * blood * (wet - pixels), 0, 255)
        self.label[box] = np.where(self._blood[box] > 0.5, BLOOD, self._label[box])


def _brush(rng: Rng) -> Image.Image:
    side = 96
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(axis, axis)
    rough = 0.13 * spectral(rng, 4, 14)[:side, :side]
    field: npt.NDArray[np.float64] = np.clip((0.78 + rough - np.hypot(x, y)) * 7, 0, 1)
    field *= np.clip((1 - np.maximum(np.abs(x), np.abs(y))) * 12, 0, 1)
    return Image.fromarray((field * 255).astype(np.uint8))


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
    veil: float
    """How much of the organ is still covered by adhesions, 0 to 1."""
    fluid: float
    """How high irrigation fluid stands, 0 to 1."""
    criteria: tuple[bool, bool, bool] | None
    """CVS criteria C1, C2, C3, or None once a structure of the pedicle is divided."""
    cvs_margin: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))
    """How far each criterion is from its threshold: annotators disagree near 0."""
