"""The tissues of a phantom. Types differ in texture (lobules, striations, webs, folds); colour varies per patient.

The grain of tissue of a body region: a texture over everything a procedure shows but the instruments.

Organs differ from procedure to procedure already; their grain differs in what a small network sees first, the local
pattern, so that features of one procedure are worth less on another.

Periodic tissue textures: each material is a tile of albedo and height, sampled onto a canvas and then lit.

Arrays are float32; albedo is linear RGB in [0, 1], heights are in units of about one bump.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

GRAIN_DEPTH = 0.4
"""How far the grain darkens and lightens the tissue."""
GRAIN_PERIOD = 1.0
"""View heights that one tile of grain spans."""


def lobules(rng: Rng) -> Array:
    """Closed cells with dark borders."""
    return 2 * cells(rng, 900)[0] - 0.9


def fibres(rng: Rng) -> Array:
    """Parallel strands in a direction of the patient's own."""
    return _limited(spectral(rng, 24, 34, angle=float(rng.uniform(0, np.pi)), stretch=10))


def dimples(rng: Rng) -> Array:
    """Dark dots on an even ground."""
    return np.asarray(0.5 - 1.5 * (spectral(rng, 26, 36) > 1.0), dtype=np.float32)


def _limited(noise: Array) -> Array:
    return np.asarray(np.tanh(noise), dtype=np.float32)


GRAINS: Mapping[str, Callable[[Rng], Array]] = {
    "cholecystectomy": lobules,
    "sleeve_gastrectomy": fibres,
    "hysterectomy": dimples,
}


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


Material = Callable[[Rng], Array]


def liver(rng: Rng) -> Array:
    """Smooth capsule over fine lobules."""
    lobule, value = cells(rng, 420)
    broad = spectral(rng, 1, 5)
    base = shift((0.45, 0.17, 0.12), rng)
    albedo = tint(base, (value * 0.3, shift((0.62, 0.3, 0.2), rng)), (0.2 + 0.2 * broad, (0.3, 0.1, 0.09)))
    return pack(albedo, 0.25 * lobule + 0.5 * broad)


def spleen(rng: Rng) -> Array:
    """Purple capsule with a coarse, fissured grain."""
    grain = spectral(rng, 8, 30)
    fissure = ridges(spectral(rng, 2, 9), 7)
    albedo = tint(
        shift((0.36, 0.13, 0.17), rng), (0.25 + 0.2 * grain, (0.5, 0.26, 0.3)), (fissure * 0.6, (0.2, 0.06, 0.09))
    )
    return pack(albedo, 0.3 * grain - 0.8 * fissure)


def bowel(rng: Rng) -> Array:
    """Pink loops with circular folds and fine vessels."""
    fold = spectral(rng, 3, 7, angle=float(rng.uniform(0, 3.1)), stretch=3)
    web = vessels(rng, 14, 2.0)
    albedo = tint(shift((0.72, 0.43, 0.36), rng), (0.3 * fold, (0.8, 0.58, 0.48)), (web * 0.7, (0.55, 0.12, 0.12)))
    return pack(albedo, 1.2 * fold)


def fat(rng: Rng) -> Array:
    """Yellow lobules with reddish septa."""
    globule, value = cells(rng, int(rng.integers(60, 110)))
    base = shift((0.78, 0.56, 0.2), rng)
    albedo = tint(base, (value * 0.35, (0.9, 0.72, 0.4)), ((0.25 - globule) * 1.5, shift((0.62, 0.34, 0.16), rng)))
    return pack(albedo, np.asarray(2.2 * np.sqrt(globule), dtype=np.float32))


def wall(rng: Rng) -> Array:
    """Abdominal wall: parallel muscle striations under peritoneum with vessels."""
    stripe = spectral(rng, 6, 24, angle=float(rng.uniform(0, 3.1)), stretch=9)
    web = vessels(rng, 9, 3.2)
    albedo = tint(
        shift((0.6, 0.31, 0.25), rng), (0.25 * stripe, (0.75, 0.5, 0.4)), (web, shift((0.45, 0.08, 0.1), rng))
    )
    return pack(albedo, 0.35 * stripe + 0.2 * web)


def gallbladder(rng: Rng) -> Array:
    """Thin serosa, greenish to pale, with a web of vessels."""
    web = vessels(rng, 18, 2.6)
    broad = spectral(rng, 1, 4)
    base = shift((0.55, 0.52, 0.42), rng, hue=0.12)
    albedo = tint(base, (0.3 + 0.3 * broad, shift((0.72, 0.6, 0.5), rng)), (web, shift((0.6, 0.16, 0.15), rng)))
    return pack(albedo, 0.4 * broad + 0.25 * web)


def stomach(rng: Rng) -> Array:
    """Thick pink wall with long folds and large vessels."""
    fold = ridges(spectral(rng, 2, 6, angle=float(rng.uniform(-0.3, 0.3)), stretch=4), 2)
    web = vessels(rng, 7, 4.0)
    albedo = tint(shift((0.74, 0.46, 0.4), rng), (fold * 0.4, (0.86, 0.64, 0.56)), (web * 0.9, (0.5, 0.14, 0.2)))
    return pack(albedo, 1.5 * fold)


def uterus(rng: Rng) -> Array:
    """Dense, mottled muscle with dimples."""
    mottle = spectral(rng, 5, 16)
    dimple, _ = cells(rng, 160)
    albedo = tint(
        shift((0.68, 0.42, 0.38), rng), (0.35 * mottle, (0.82, 0.62, 0.56)), ((0.22 - dimple) * 2, (0.5, 0.22, 0.22))
    )
    return pack(albedo, 0.5 * mottle + 0.5 * dimple)


def bed(rng: Rng) -> Array:
    """Raw surface left by dissection: granular, with char and torn strands."""
    grain = spectral(rng, 18, 60)
    char = spectral(rng, 3, 12)
    strand = ridges(spectral(rng, 3, 14, angle=float(rng.uniform(0, 3.1)), stretch=4), 5)
    albedo = tint(
        shift((0.55, 0.2, 0.14), rng),
        (0.3 * grain, (0.75, 0.42, 0.3)),
        ((char - 1.0) * 0.9, (0.2, 0.1, 0.07)),
        (strand * 0.5, (0.8, 0.66, 0.52)),
    )
    return pack(albedo, 0.7 * grain + 0.9 * strand)


def connective(rng: Rng) -> Array:
    """Cover of the pedicle: peritoneum and fat crossed by whitish strands."""
    globule, _ = cells(rng, 45)
    angle = float(rng.uniform(0, 3.1))
    strand = ridges(spectral(rng, 4, 16, angle=angle, stretch=6), 4)
    crossing = ridges(spectral(rng, 4, 16, angle=angle + 1.1, stretch=6), 5)
    base = shift((0.74, 0.5, 0.27), rng)
    albedo = tint(
        base,
        ((0.25 - globule) * 2, (0.6, 0.3, 0.18)),
        (strand * 0.7, (0.88, 0.78, 0.62)),
        (crossing * 0.5, (0.82, 0.6, 0.5)),
    )
    return pack(albedo, 0.8 * globule + 1.0 * strand)


def duct(rng: Rng) -> Array:
    """Smooth, pale, faintly ringed tube wall."""
    ring = spectral(rng, 10, 30, angle=0.4, stretch=5)
    return pack(tint(shift((0.75, 0.6, 0.45), rng), (0.2 * ring, (0.9, 0.8, 0.66))), 0.3 * ring)


def artery(rng: Rng) -> Array:
    """Smooth red tube wall with fine vessels of its own."""
    web = vessels(rng, 10, 1.6)
    return pack(tint(shift((0.66, 0.28, 0.24), rng), (web * 0.6, (0.45, 0.08, 0.08))), 0.2 * web)


def drape(rng: Rng) -> Array:
    """Folded cloth of the operating room, seen when the camera is out of the body."""
    fold = spectral(rng, 1, 6, angle=float(rng.uniform(0, 3.1)), stretch=3)
    weave = spectral(rng, 40, 90)
    colours = [(0.12, 0.35, 0.45), (0.1, 0.4, 0.3), (0.25, 0.4, 0.6), (0.6, 0.65, 0.68)]
    base = shift(colours[int(rng.integers(len(colours)))], rng)
    return pack(tint(base, (0.25 * fold, (0.5, 0.62, 0.65)), (0.1 * weave, (0.7, 0.7, 0.7))), 2.0 * fold + 0.1 * weave)


def gauze(rng: Rng) -> Array:
    """A swab: loose weave, some of it soaked."""
    warp, weft = (spectral(rng, 30, 60, angle=a, stretch=12) for a in (0.0, float(np.pi / 2)))
    soaked = np.clip(spectral(rng, 1, 5) - np.float32(0.6), 0, 1)
    weave = np.asarray(np.maximum(warp, weft), dtype=np.float32)
    base = shift((0.8, 0.79, 0.76), rng, hue=0.02, value=0.08)
    return pack(tint(base, (0.1 * weave, (0.9, 0.9, 0.9)), (soaked, (0.45, 0.1, 0.09))), 0.3 * weave)
