"""Periodic tissue textures: each material is a tile of albedo and height, sampled onto a canvas and then lit.

Arrays are float32; albedo is linear RGB in [0, 1], heights are in units of about one bump.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

Array = npt.NDArray[np.float32]
Rng = np.random.Generator
RGB = tuple[float, float, float]

TILE = 256


def spectral(rng: Rng, low: float, high: float, angle: float = 0.0, stretch: float = 1.0) -> Array:
    """Periodic band-pass noise [TILE, TILE] of unit variance, cycles per tile between `low` and `high`.

    `stretch` > 1 makes it that many times longer along `angle` (radians): striations.
    """
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE) * TILE, np.fft.rfftfreq(TILE) * TILE, indexing="ij")
    along = fx * np.cos(angle) + fy * np.sin(angle)
    across = -fx * np.sin(angle) + fy * np.cos(angle)
    radius = np.hypot(along * stretch, across)
    gain = np.exp(-((radius / high) ** 2)) * (1 - np.exp(-((radius / low) ** 2))) / np.maximum(radius, 1) ** 0.5
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * gain, s=(TILE, TILE))
    return np.asarray(noise / (noise.std() + 1e-9), dtype=np.float32)


def ridges(noise: Array, sharpness: float = 3.0) -> Array:
    """1 on the zero crossings of `noise`, falling to 0: webs and folds."""
    return np.asarray(np.exp(-np.abs(noise) * sharpness), dtype=np.float32)


def cells(rng: Rng, count: int) -> tuple[Array, Array]:
    """Periodic Voronoi: roundness of the cell (1 in the centre, 0 on the border) and a random value per cell."""
    side = TILE // 2
    points = rng.uniform(0, side, (count, 2))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    distance, owner = cKDTree(points, boxsize=side).query(grid + 0.5, k=2)
    border = ((distance[:, 1] - distance[:, 0]) / (distance[:, 1] + 1e-6)).reshape(side, side)
    value = rng.random(count)[owner[:, 0]].reshape(side, side)
    return _double(border), _double(value)


def _double(field: npt.NDArray[Any]) -> Array:
    image = Image.fromarray(np.pad(field.astype(np.float32), 2, mode="wrap"))
    big = np.asarray(image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC))
    return np.asarray(np.clip(big[4:-4, 4:-4], 0, 1), dtype=np.float32)


def vessels(rng: Rng, count: int, width: float = 3.0) -> Array:
    """Periodic branching vessels [TILE, TILE] in [0, 1]: thick trunks that thin out and fork."""
    image = Image.new("L", (TILE, TILE))
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        x, y = rng.uniform(0, TILE, 2)
        _grow(draw, rng, float(x), float(y), float(rng.uniform(0, 2 * np.pi)), width)
    return np.asarray(ndimage.gaussian_filter(np.asarray(image, dtype=np.float32) / 255, 0.7, mode="wrap"))


def _grow(draw: ImageDraw.ImageDraw, rng: Rng, x: float, y: float, heading: float, width: float) -> None:
    while width > 0.6:
        heading += float(rng.normal(0, 0.35))
        step = float(rng.uniform(6, 14))
        nx, ny = x + step * np.cos(heading), y + step * np.sin(heading)
        for dx in (-TILE, 0, TILE):
            for dy in (-TILE, 0, TILE):
                draw.line((x + dx, y + dy, nx + dx, ny + dy), fill=int(min(255, 90 + 60 * width)), width=round(width))
        if rng.random() < 0.25 and width > 1.2:
            _grow(draw, rng, nx, ny, heading + float(rng.choice([-0.8, 0.8])), width * 0.65)
        x, y, width = nx, ny, width * 0.93


def shift(colour: RGB, rng: Rng, hue: float = 0.06, value: float = 0.22) -> RGB:
    """A tissue colour as it looks in another patient."""
    gain = float(np.exp(rng.normal(0, value)))
    tint = np.exp(rng.normal(0, hue, 3))
    r, g, b = (float(min(0.95, c * gain * t)) for c, t in zip(colour, tint, strict=True))
    return r, g, b


def tint(base: RGB, *terms: tuple[Array, RGB]) -> Array:
    """Albedo [TILE, TILE, 3]: the base colour blended towards other colours by weight fields in [0, 1]."""
    albedo = np.empty((TILE, TILE, 3), dtype=np.float32)
    albedo[:] = base
    for weight, colour in terms:
        w = np.clip(weight, 0, 1)[..., None]
        albedo += w * (np.asarray(colour, dtype=np.float32) - albedo)
    return albedo


def pack(albedo: Array, height: Array) -> Array:
    """One material tile [TILE, TILE, 4]: RGB and height."""
    return np.concatenate([albedo, height[..., None]], axis=-1)
