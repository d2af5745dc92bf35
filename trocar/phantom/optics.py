"""What camera, cable and recorder of a hospital do to the picture: response, white balance, noise, vignette, border.

Where the organ and the specimen bag are while the organ is held and packed.

Periodic disturbances of a hospital's video chain: constant for all its cases, in another phase in every frame.

A network that has seen them learns to look through them; one that has not finds edges everywhere. They lie in every
view of a frame and say nothing about it, and neither colour jitter nor a blur of a sigma below their period takes them
away: that is why pretraining on the other hospital costs something here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from trocar.phantom.anatomy import Points, Shape
from trocar.phantom.materials import TILE, Array, Rng, spectral
from trocar.phantom.sampling import stream
from trocar.phantom.spec import CasePlan, PhantomSpec
from trocar.phantom.stage import SpritePose, ease, wander


def point_on_organ(shape: Shape, organ: SpritePose, share: float) -> Points:
    """World position [2] on the organ's axis, `share` of its length from the neck."""
    reach = share * shape.length * organ.along
    bend = shape.bend * 4 * share * (1 - share) * organ.across
    c, s = np.cos(organ.angle), np.sin(organ.angle)
    return np.array([organ.x + c * reach - s * bend, organ.y + s * reach + c * bend])


def packing_poses(
    home: SpritePose, port: Points, bag_home: Points, packed: float, sway: float
) -> tuple[SpritePose, SpritePose]:
    """Poses of organ and bag when `packed` (0 to 1) of the packing is done.

    The bag comes in through the port, the organ goes into it, it is closed, and both leave through the port.
    """
    out = ease((packed - 0.72) / 0.28)
    arrive = ease(packed / 0.16) * (1 - out)
    bag_xy = port + (bag_home - port) * (0.15 + 0.85 * arrive)
    direction = float(np.arctan2(*(bag_home - port)[::-1])) + 0.06 * sway
    closed = ease((packed - 0.55) / 0.15)
    bag = SpritePose(float(bag_xy[0]), float(bag_xy[1]), direction, 1.0, 1 - 0.3 * closed)
    inside = ease((packed - 0.2) / 0.32)
    pocket = bag_xy - 0.2 * np.array([np.cos(direction), np.sin(direction)])
    x = home.x + inside * (pocket[0] - home.x)
    y = home.y + inside * (pocket[1] - home.y)
    turn = (direction - home.angle + np.pi) % (2 * np.pi) - np.pi
    size = 1 - 0.42 * inside
    angle = home.angle + inside * float(turn)
    return SpritePose(float(x), float(y), angle, home.along * size, home.across * size), bag


@dataclass(frozen=True)
class Ripple:
    """A plane wave over the picture."""

    periods: float
    """Waves per view height."""
    angle: float
    """Direction in which it varies, degrees from the picture's x axis."""
    depth: float
    """Amplitude in linear grey levels of 255."""
    rate: float
    """Waves per second that pass a pixel."""


class Interference:
    """The sum of a hospital's ripples for one case; their phase at its start is the case's own."""

    def __init__(self, ripples: Sequence[Ripple], rng: Rng, size: tuple[int, int], fps: int) -> None:
        width, height = size
        y, x = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(height)
        self._waves = []
        for ripple in ripples:
            angle = math.radians(ripple.angle)
            field = 2 * np.pi * ripple.periods * (x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle)))
            cosine, sine = (np.asarray(ripple.depth * wave(field), dtype=np.float32) for wave in (np.cos, np.sin))
            self._waves.append((cosine, sine, float(rng.uniform(0, 2 * np.pi)), 2 * np.pi * ripple.rate / fps))

    def __call__(self, frame: int) -> Array:
        """What the disturbance adds to frame `frame`: float32 [H, W], linear grey levels."""
        total: Array = np.zeros_like(self._waves[0][0])
        for cosine, sine, start, step in self._waves:
            phase = start + step * frame
            # cos(field - phase), without a cosine per pixel.
            total += cosine * np.float32(math.cos(phase)) + sine * np.float32(math.sin(phase))
        return total


Bytes = npt.NDArray[np.uint8]
NOISE_BANK = 6


@dataclass(frozen=True)
class House:
    """The style of a hospital's camera chain."""

    matrix: tuple[tuple[float, float, float], ...]
    """Colour response, rows R G B."""
    gamma: float
    contrast: float
    noise: float
    """Standard deviation in grey levels of 255."""
    soften: float
    """Lens blur in view heights."""
    vignette: float
    circular: float
    """Share of cases with a circular view."""
    border: int
    """Grey level outside the view."""
    overlay: str
    ripples: tuple[Ripple, ...]
    """Rows of the sensor that read out unevenly (north), a coagulator's current on an analogue cable (south)."""
    crf: int
    """Quality setting of the recorder's H.264 encoder, higher is coarser."""


HOUSES = {
    "north": House(
        ((1.06, -0.04, -0.02), (-0.02, 1.02, 0.0), (-0.02, -0.02, 1.04)),
        0.8, 1.05, 2.0, 0.0, 0.25, 0.15, 0, "NORTH OR 2",
        (Ripple(14, 90, 14, 0.7),), 21,
    ),
    "south": House(
        ((0.86, 0.10, 0.04), (0.05, 0.90, 0.05), (0.05, 0.12, 0.95)),
        0.62, 0.88, 5.0, 0.0045, 0.6, 0.8, 14, "",
        (Ripple(28, 35, 10, 0.9), Ripple(28, -35, 10, 0.55)), 26,
    ),
}  # fmt: skip


class Optics:
    """The camera chain of one case. `develop` turns linear light into the recorded picture."""

    def __init__(self, spec: PhantomSpec, plan: CasePlan) -> None:
        self.house = HOUSES[plan.hospital]
        self.width, self.height = spec.size
        rng = stream(spec.seed, "case", plan.index, "optics")
        y, x = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        centre = rng.uniform(-0.12, 0.12, 2)
        fall = np.hypot((x / self.height - self.width / self.height / 2) - centre[0], y / self.height - 0.5 - centre[1])
        self.light: Array = np.asarray(1.12 - self.house.vignette * fall**2 * 1.5, dtype=np.float32).clip(0.15)
        self.gloss: Array = np.asarray(0.75 * np.exp(-((fall / 0.42) ** 2)), dtype=np.float32)
        self.visible, self.box = self._view(rng)
        # Auto-exposure and auto white balance pull towards targets that drift and know nothing of the phase.
        frames = plan.frames
        self._level = 0.33 * np.exp(rng.normal(0, 0.14) + 0.1 * wander(rng, frames, spec.fps, 30))
        cast = rng.normal(0, 0.09, 3)
        drift = np.stack([0.05 * wander(rng, frames, spec.fps, 45) for _ in range(3)], axis=1)
        mean_tissue = np.array([1.45, 0.85, 0.7])
        self._cast = mean_tissue * np.exp(cast + drift)
        self._gain: Array | None = None
        self._keep = float(np.exp(-1 / (1.5 * spec.fps)))
        self._noise = self._bank(rng)
        self._interference = Interference(self.house.ripples, rng, spec.size, spec.fps)
        self._rolls = rng.integers(0, TILE, (frames, 2))
        self._curve = self._tone()
        self._overlay = self._draw_overlay()

    def _view(self, rng: np.random.Generator) -> tuple[npt.NDArray[np.bool_] | None, tuple[float, float, float] | None]:
        if rng.random() >= self.house.circular:
            return None, None
        radius = float(rng.uniform(0.52, 0.6)) * self.height
        cx = self.width / 2 + float(rng.uniform(-0.05, 0.05)) * self.height
        cy = self.height / 2 + float(rng.uniform(-0.03, 0.03)) * self.height
        y, x = np.mgrid[0 : self.height, 0 : self.width]
        return np.hypot(x - cx, y - cy) < radius, (cx, cy, radius)

    def _bank(self, rng: np.random.Generator) -> list[Array]:
        """Noise fields [3, H + TILE, W + TILE] in linear grey levels: partly coarse grain, partly per pixel."""
        repeats = (1, self.height // TILE + 2, self.width // TILE + 2)
        fields = []
        for _ in range(NOISE_BANK):
            grain = [0.8 * spectral(rng, 20, 90) + 0.45 * rng.standard_normal((TILE, TILE)) for _ in range(3)]
            fields.append(np.tile(np.stack(grain) * self.house.noise, repeats).astype(np.float32))
        return fields

    def _tone(self) -> Bytes:
        x = np.arange(256) / 255
        y = x**self.house.gamma
        y = 0.5 + (y - 0.5) * self.house.contrast + 0.02
        return np.asarray(np.clip(y * 255, 0, 255).round(), dtype=np.uint8)

    def sees(self, x: float, y: float, margin: float = 0.0) -> bool:
        """Whether a pixel lies in the picture and inside the circular view, `margin` pixels from its edge."""
        if not (margin <= x < self.width - margin and margin <= y < self.height - margin):
            return False
        if self.box is None:
            return True
        cx, cy, radius = self.box
        return float(np.hypot(x - cx, y - cy)) < radius - margin

    def develop(self, frame: int, linear: Array) -> Bytes:
        """Linear light float32 [3, H, W] (0 to 255) -> recorded picture uint8 [H, W, 3]."""
        gain = self._expose(frame, linear)
        dy, dx = self._rolls[frame]
        noise = self._noise[frame % NOISE_BANK][:, dy : dy + self.height, dx : dx + self.width]
        ripple = self._interference(frame)
        picture = np.empty((self.height, self.width, 3), dtype=np.uint8)
        for channel, row in enumerate(self.house.matrix):
            level = noise[channel] + ripple
            for source in range(3):
                level += linear[source] * np.float32(row[source] * gain[source])
            picture[..., channel] = self._curve[np.clip(level, 0, 255, out=level).astype(np.uint8)]
        return self._frame(picture)

    def _expose(self, frame: int, linear: Array) -> Array:
        """Automatic exposure and white balance: gains [3] that follow the picture with a lag."""
        small = linear[:, 4::8, 4::8]
        small = small.reshape(3, -1) if self.visible is None else small[:, self.visible[4::8, 4::8]]
        mean = small.mean(axis=1) + 1.0
        target = self._level[frame] * 255 * self._cast[frame]
        # Balanced half by channel, half by brightness: a real camera's white balance is not complete either.
        wanted = (target / mean) ** 0.6 * (target.sum() / mean.sum()) ** 0.4
        wanted = np.clip(wanted, 0.3, 3.5).astype(np.float32)
        self._gain = wanted if self._gain is None else self._keep * self._gain + (1 - self._keep) * wanted
        return self._gain

    def _draw_overlay(self) -> Bytes:
        """Coverage uint8 [H, W] of the recorder's text."""
        image = Image.new("L", (self.width, self.height))
        unit = max(6, self.height // 20)
        place = (unit // 2, self.height - 1.4 * unit)
        ImageDraw.Draw(image).text(place, self.house.overlay, fill=255, font_size=unit)
        return np.asarray(image)

    def _frame(self, picture: Bytes) -> Bytes:
        """Add what the recorder adds: the area outside the view and an overlay."""
        if self.visible is not None:
            picture[~self.visible] = self.house.border
        if self.house.overlay:
            picture[self._overlay > 127] = 205
        return picture

    def blank(self, frame: int, level: int = 3) -> Bytes:
        """A black picture as the recorder writes it while the light is off."""
        noise = self._noise[frame % NOISE_BANK][:, : self.height, : self.width] / 3
        return self._frame(np.clip(level + noise.transpose(1, 2, 0), 0, 255).astype(np.uint8))
