"""Paint one patient: the world canvas in its three states and the target organ as a sprite of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from trocar.phantom import materials
from trocar.phantom.anatomy import WORLD_HALF, Anatomy, Points
from trocar.phantom.materials import TILE, Array, Material, Rng, spectral
from trocar.phantom.sampling import FINE, Sprite, make_sprite, refine
from trocar.phantom.spec import BACKGROUND, DUCT_VESSEL, FAT_CONNECTIVE, SOLID_ORGAN, TARGET_ORGAN

Bytes = npt.NDArray[np.uint8]

TARGETS: Mapping[str, Material] = {
    "cholecystectomy": materials.gallbladder,
    "sleeve_gastrectomy": materials.stomach,
    "hysterectomy": materials.uterus,
}
# The solid organ above, and what lies beside the fat below: these make procedures differ away from the target too.
NEIGHBOURS: Mapping[str, tuple[Material, Material]] = {
    "cholecystectomy": (materials.liver, materials.bowel),
    "sleeve_gastrectomy": (materials.spleen, materials.liver),
    "hysterectomy": (materials.bowel, materials.bowel),
}


@dataclass
class SceneLayer:
    """Albedo and height of what is visible from above, and its class."""

    rgb: Array
    height: Array
    label: Bytes


@dataclass(frozen=True)
class Painted:
    """A lit canvas: RGB and a gloss channel (uint8 [H, W, 4]) and class ids (uint8 [H, W])."""

    pixels: Bytes
    label: Bytes


@dataclass(frozen=True)
class Scene:
    """Everything painted once per case; `scale` is canvas pixels per world unit."""

    scale: float
    covered: Painted
    exposed: Painted
    divided: Painted
    organ: Sprite
    """In organ-local axes (x along, y across), its origin at the neck."""
    veils: tuple[Sprite, ...]
    """Adhesions over the organ in the same axes, from few to many."""
    blood: tuple[int, int, int]


class Canvas:
    """World coordinates of a pixel grid, warped a little so that tiles don't repeat in straight lines."""

    def __init__(self, rng: Rng, scale: float, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.scale = scale
        columns, rows = round((x[1] - x[0]) * scale), round((y[1] - y[0]) * scale)
        self.x, self.y = np.meshgrid(
            np.linspace(*x, columns, dtype=np.float32), np.linspace(*y, rows, dtype=np.float32)
        )
        self.warp = [0.02 * self._tiled(spectral(rng, 1, 4), 1.3, 0.0) for _ in range(2)]
        self.edge = [self._tiled(spectral(rng, 1, 6), 2.1, 0.0), self._tiled(spectral(rng, 4, 16), 1.5, 0.0)]

    def _tiled(self, tile: Array, period: float, angle: float, warp: bool = False) -> Array:
        dx, dy = self.warp if warp else (0.0, 0.0)
        c, s = np.cos(angle) / period * TILE, np.sin(angle) / period * TILE
        column = (c * (self.x + dx) + s * (self.y + dy)).astype(np.int32) % TILE
        row = (c * (self.y + dy) - s * (self.x + dx)).astype(np.int32) % TILE
        return np.asarray(tile[row, column])

    def fill(self, rng: Rng, material: Material, label: int, period: float = 0.8) -> SceneLayer:
        """Cover the whole canvas with one material; one tile spans `period` units."""
        angle = float(rng.uniform(0, 2 * np.pi))
        sampled = self._tiled(material(rng), period * float(rng.uniform(0.8, 1.25)), angle, warp=True)
        height = sampled[..., 3] * (0.010 * period)
        return SceneLayer(sampled[..., :3].copy(), height, np.full(height.shape, label, dtype=np.uint8))

    def grained(self, rng: Rng, procedure: str) -> Array:
        """Factor [H, W, 1] that the procedure's grain puts on every albedo."""
        angle = float(rng.uniform(0, 2 * np.pi))
        return (
            1
            + materials.GRAIN_DEPTH
            * self._tiled(materials.GRAINS[procedure](rng), materials.GRAIN_PERIOD, angle, warp=True)[..., None]
        )


def over(below: SceneLayer, above: SceneLayer, depth: Array, bulge: float, soft: float = 0.006) -> SceneLayer:
    """Put `above` where `depth` > 0, with a rounded edge of height `bulge` and a contact shadow around it."""
    alpha = np.clip(depth / soft + 0.5, 0, 1)[..., None]
    shadow = np.clip(1 + depth / 0.09, 0, 1) * (depth < 0)
    rgb = below.rgb * (1 - 0.4 * shadow[..., None] ** 2)
    dome = bulge * np.sqrt(np.clip(depth / 0.15, 0, 1))
    return SceneLayer(
        rgb + alpha * (above.rgb - rgb),
        np.where(depth > 0, below.height * 0.2 + above.height + dome, below.height).astype(np.float32),
        np.where(depth > 0, above.label, below.label).astype(np.uint8),
    )


def light(layer: SceneLayer, scale: float, soften: float) -> Array:
    """Shade by the height's slope (light from the upper left) and measure gloss: float32 [H, W, 4].

    `soften` is a lens blur in units.
    """
    height = ndimage.gaussian_filter(layer.height, 0.006 * scale)
    dy, dx = np.gradient(height, 1 / scale)
    diffuse = (1.0 - 0.45 * dx - 0.45 * dy) / np.sqrt(1 + dx**2 + dy**2)
    facing = np.exp(-(((dx + 0.28) ** 2 + (dy + 0.28) ** 2) / 0.012))
    pixels = np.empty((*height.shape, 4), dtype=np.float32)
    pixels[..., :3] = layer.rgb * np.clip(diffuse, 0.25, 1.6)[..., None]
    pixels[..., 3] = facing
    sigma = soften * scale
    return np.asarray(ndimage.gaussian_filter(pixels, (sigma, sigma, 0)) if sigma > 0.3 else pixels)


def paint(layer: SceneLayer, scale: float, soften: float) -> Painted:
    """Light a layer and store it at twice its resolution."""
    pixels = light(layer, scale, soften)
    fine = refine(np.clip(pixels * 255, 0, 255).astype(np.uint8))
    return Painted(fine, layer.label.repeat(FINE, axis=0).repeat(FINE, axis=1))


def make_scene(rng: Rng, procedure: str, anatomy: Anatomy, view_height: int, soften: float) -> Scene:
    """Paint the world of one case for a view `view_height` pixels high. `soften`: lens blur in world units."""
    scale = 1.15 * view_height
    canvas = Canvas(rng, scale, (-WORLD_HALF[0], WORLD_HALF[0]), (-WORLD_HALF[1], WORLD_HALF[1]))
    ground = _surroundings(canvas, rng, procedure, anatomy)
    divided = _open_pedicle(canvas, rng, ground, anatomy)
    exposed = _with_tubes(canvas, rng, divided, anatomy)
    cover = canvas.fill(rng, materials.connective, FAT_CONNECTIVE, 0.6)
    covered = over(exposed, cover, pedicle_depth(canvas, anatomy, 0.24), 0.03)
    factor = canvas.grained(rng, procedure)
    covered, exposed, divided = (replace(layer, rgb=layer.rgb * factor) for layer in (covered, exposed, divided))
    organ = _organ_sprite(rng, procedure, anatomy, scale, soften)
    veils = _veil_sprites(rng, anatomy, scale, soften)
    gain = float(rng.uniform(0.7, 1.2))
    return Scene(
        scale * FINE,
        paint(covered, scale, soften),
        paint(exposed, scale, soften),
        paint(divided, scale, soften),
        organ,
        veils,
        (int(135 * gain), int(18 * gain), int(14 * gain)),
    )


def _surroundings(canvas: Canvas, rng: Rng, procedure: str, anatomy: Anatomy) -> SceneLayer:
    solid_material, beside_material = NEIGHBOURS[procedure]
    x, y = canvas.x, canvas.y
    rough, fine = canvas.edge
    ground = canvas.fill(rng, materials.wall, BACKGROUND, 1.0)
    along, across = _organ_axes(canvas, anatomy)
    solid = canvas.fill(rng, solid_material, SOLID_ORGAN, 0.7)
    lobe = 0.62 + 0.12 * rough - np.abs(across + float(rng.uniform(-0.25, 0.25))) * 0.8 + 0.25 * along
    ground = over(ground, solid, np.minimum(lobe, 0.35 + along + 0.05 * rough), 0.1)
    beside = canvas.fill(rng, beside_material, SOLID_ORGAN, 0.8)
    loops = float(rng.choice([-1.0, 1.0])) * x - 0.45 + 0.16 * rough + float(rng.uniform(-0.1, 0.1))
    ground = over(ground, beside, np.minimum(loops, y + 0.15 + 0.1 * rough), 0.1)
    omentum = canvas.fill(rng, materials.fat, FAT_CONNECTIVE, float(rng.uniform(0.45, 0.8)))
    apron = y - 0.42 + 0.10 * rough + 0.02 * fine + float(rng.uniform(-0.15, 0.1))
    ground = over(ground, omentum, apron, 0.08)
    for _ in range(int(rng.integers(0, 4))):
        ground = over(ground, *_gauze(canvas, rng), 0.02)
    raw = canvas.fill(rng, materials.bed, SOLID_ORGAN, 0.5)
    return over(ground, raw, anatomy.shape.depth(along, across) - 0.03 + 0.012 * fine, -0.02, 0.02)


def _organ_axes(canvas: Canvas, anatomy: Anatomy) -> tuple[Array, Array]:
    c, s = np.float32(np.cos(anatomy.angle)), np.float32(np.sin(anatomy.angle))
    dx, dy = canvas.x - np.float32(anatomy.neck[0]), canvas.y - np.float32(anatomy.neck[1])
    return c * dx + s * dy, c * dy - s * dx


def pedicle_depth(canvas: Canvas, anatomy: Anatomy, radius: float) -> Array:
    """> 0 within about `radius` of the line from neck to hilum, with a rough outline."""
    a, b = anatomy.neck, anatomy.hilum
    dx, dy = b - a
    t = np.clip(((canvas.x - a[0]) * dx + (canvas.y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    distance = np.hypot(canvas.x - a[0] - t * dx, canvas.y - a[1] - t * dy)
    return np.asarray(radius - distance + 0.018 * canvas.edge[1], dtype=np.float32)


def _open_pedicle(canvas: Canvas, rng: Rng, ground: SceneLayer, anatomy: Anatomy) -> SceneLayer:
    plate = canvas.fill(rng, materials.bed, SOLID_ORGAN, 0.9)
    return over(ground, plate, pedicle_depth(canvas, anatomy, 0.2), -0.02, 0.03)


def _with_tubes(canvas: Canvas, rng: Rng, ground: SceneLayer, anatomy: Anatomy) -> SceneLayer:
    for line, width, material in zip(
        anatomy.tubes, anatomy.tube_widths, (materials.duct, materials.artery), strict=True
    ):
        tube = canvas.fill(rng, material, DUCT_VESSEL, 0.4)
        ground = over(ground, tube, _tube_depth(canvas, line, width), 0.05)
    return ground


def _tube_depth(canvas: Canvas, line: Points, width: float) -> Array:
    rows, columns = canvas.x.shape
    image = Image.new("1", (columns, rows), 1)
    pixels = [((x + WORLD_HALF[0]) * canvas.scale, (y + WORLD_HALF[1]) * canvas.scale) for x, y in line]
    ImageDraw.Draw(image).line(pixels, fill=0, width=2)
    distance = ndimage.distance_transform_edt(np.asarray(image)) / canvas.scale
    return np.asarray(width - distance, dtype=np.float32)


def _organ_sprite(rng: Rng, procedure: str, anatomy: Anatomy, scale: float, soften: float) -> Sprite:
    shape, margin = anatomy.shape, 0.08
    half = max(shape.widths) + abs(shape.bend) + margin
    canvas = Canvas(rng, scale, (-margin - 0.1, shape.length + margin + 0.1), (-half, half))
    layer = canvas.fill(rng, TARGETS[procedure], TARGET_ORGAN, 0.75)
    layer.rgb *= canvas.grained(rng, procedure)
    depth = shape.depth(canvas.x, canvas.y) + 0.004 * canvas.edge[1]
    dome = 0.16 * np.sqrt(np.clip(depth / 0.2, 0, 1))
    lit = light(SceneLayer(layer.rgb, (layer.height + dome).astype(np.float32), layer.label), scale, soften)
    rgb = (lit[..., :3] + 0.5 * lit[..., 3:] * (depth > 0.015)[..., None]) * 255
    rgb *= np.clip(0.45 + depth / 0.06, 0.45, 1)[..., None]
    alpha = np.clip(depth / 0.008 + 0.5, 0, 1)[..., None]
    pixels = np.concatenate([np.clip(rgb, 0, 255) * alpha, alpha * 255], axis=-1).astype(np.uint8)
    return make_sprite(pixels, ((margin + 0.1) * scale, half * scale), scale)


VEIL_COVERS = (0.75, 0.1, -0.7)
"""Thresholds of a field of unit variance: few adhesions, some, many."""


def _veil_sprites(rng: Rng, anatomy: Anatomy, scale: float, soften: float) -> tuple[Sprite, ...]:
    shape, margin = anatomy.shape, 0.16
    half = max(shape.widths) + abs(shape.bend) + margin
    canvas = Canvas(rng, scale, (-margin, shape.length + margin), (-half, half))
    layer = canvas.fill(rng, materials.fat, FAT_CONNECTIVE, 0.45)
    rough, fine = canvas.edge
    near = np.clip((shape.depth(canvas.x, canvas.y) + 0.1) / 0.06, 0, 1)
    sprites = []
    for cover in VEIL_COVERS:
        depth = 0.1 * (rough + 0.25 * fine - cover)
        dome = 0.08 * np.sqrt(np.clip(depth / 0.12, 0, 1))
        lit = light(SceneLayer(layer.rgb, (layer.height + dome).astype(np.float32), layer.label), scale, soften)
        rgb = (lit[..., :3] + 0.35 * lit[..., 3:] * (depth > 0.02)[..., None]) * 255
        alpha = (np.clip(depth / 0.012 + 0.5, 0, 1) * near)[..., None]
        pixels = np.concatenate([np.clip(rgb, 0, 255) * alpha, alpha * 255], axis=-1).astype(np.uint8)
        sprites.append(make_sprite(pixels, (margin * scale, half * scale), scale))
    return tuple(sprites)


def _gauze(canvas: Canvas, rng: Rng) -> tuple[SceneLayer, Array, float]:
    """A swab that was left lying: it says nothing about hospital, procedure or phase."""
    weave = canvas.fill(rng, materials.gauze, BACKGROUND, 0.35)
    x, y = rng.uniform(-1.1, 1.1), rng.uniform(-0.9, 0.9)
    angle, long, wide = rng.uniform(0, np.pi), rng.uniform(0.12, 0.26), rng.uniform(0.07, 0.14)
    c, s = np.cos(angle), np.sin(angle)
    along, across = c * (canvas.x - x) + s * (canvas.y - y), c * (canvas.y - y) - s * (canvas.x - x)
    depth = wide * (1 - (np.abs(along) / long) ** 3 - (np.abs(across) / wide) ** 3) + 0.012 * canvas.edge[1]
    return weave, np.asarray(depth, dtype=np.float32), 0.03
