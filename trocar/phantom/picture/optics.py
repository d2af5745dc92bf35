"""What camera, cable and recorder of a hospital do to the picture: response, white balance, noise, vignette, border."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from trocar.phantom.motion import wander
from trocar.phantom.picture.interference import Interference, Ripple
from trocar.phantom.picture.textures import TILE, Array, spectral
from trocar.phantom.spec import CasePlan, PhantomSpec
from trocar.phantom.streams import stream

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
        (Ripple(14, 90, 42, 0.7),), 21,
    ),
    "south": House(
        ((0.86, 0.10, 0.04), (0.05, 0.90, 0.05), (0.05, 0.12, 0.95)),
        0.62, 0.88, 5.0, 0.0045, 0.6, 0.8, 14, "",
        (Ripple(28, 35, 28, 0.9), Ripple(28, -35, 28, 0.55)), 26,
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
