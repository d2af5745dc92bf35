"""Instruments as shaded sprites. They differ in tip shape and shaft texture; colours vary from patient to patient.

A sprite lies along x with its tip at the right; lengths are in world units (1 = height of the view at zoom 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from trocar.phantom.materials import RGB, TILE, Array, Rng, spectral
from trocar.phantom.sampling import Sprite, make_sprite
from trocar.phantom.spec import BIPOLAR, CLIPPER, GRASPER, HOOK, IRRIGATOR, SCISSORS

REACH = 1.9
"""Length of a sprite behind its tip."""
HALF = 0.26
OVERSAMPLE = 2
SHAFT_COLOURS: tuple[RGB, ...] = (
    (0.09, 0.09, 0.1),
    (0.2, 0.2, 0.22),
    (0.52, 0.53, 0.55),
    (0.68, 0.68, 0.66),
    (0.2, 0.26, 0.38),
)
WIDTHS = {GRASPER: 0.055, BIPOLAR: 0.052, HOOK: 0.05, SCISSORS: 0.052, CLIPPER: 0.085, IRRIGATOR: 0.06}
# Where the shaft ends and the tip begins, behind the tip point.
TIP_LENGTHS = {GRASPER: 0.2, BIPOLAR: 0.19, HOOK: 0.13, SCISSORS: 0.17, CLIPPER: 0.2, IRRIGATOR: 0.05}

Polygon = list[tuple[float, float]]


@dataclass(frozen=True)
class ToolStyle:
    """How one patient's instruments look."""

    shaft: RGB
    metal: RGB
    girth: float
    wristed: bool
    """Robotic instruments carry two bright wrist rings behind the tip."""
    light: float
    """Where across the shaft the highlight lies, -0.6 to 0.6."""


def draw_style(rng: Rng, wristed: bool) -> ToolStyle:
    """One instrument's look; the shaft's colour says nothing about its kind."""
    shaft = SHAFT_COLOURS[int(rng.integers(len(SHAFT_COLOURS)))]
    grey = float(rng.uniform(0.5, 0.75))
    metal = (grey, grey * float(rng.uniform(0.95, 1.02)), grey * float(rng.uniform(0.9, 1.06)))
    return ToolStyle(shaft, metal, float(rng.uniform(0.95, 1.3)), wristed, float(rng.uniform(-0.6, 0.6)))


def make_tool(rng: Rng, kind: int, opening: float, style: ToolStyle, view_height: int) -> Sprite:
    """Paint one instrument with its jaws `opening` radians apart from the axis (ignored by hook and irrigator)."""
    scale = 1.3 * view_height
    columns, rows = round((REACH + 0.05) * scale), round(2 * HALF * scale)
    x = (np.arange(columns, dtype=np.float32) - REACH * scale) / scale
    y = (np.arange(rows, dtype=np.float32) - rows / 2) / scale
    grid_x, grid_y = np.meshgrid(x, y)
    shaft_rgb, shaft_mask = _shaft(grid_x, grid_y, kind, style)
    rgb, alpha = shaft_rgb, shaft_mask.astype(np.float32)
    for polygon, tone in _tip_polygons(kind, opening, style.girth):
        mask = _mask(polygon, scale, columns, rows)
        depth = np.minimum(ndimage.distance_transform_edt(mask > 0.5) / scale / 0.012, 1)
        sheen = 0.45 + 0.55 * depth + 0.12 * np.sin(grid_x * 190 + grid_y * 60)
        colour = np.asarray(style.metal, dtype=np.float32) * tone
        rgb = rgb + mask[..., None] * (colour * sheen[..., None] - rgb)
        alpha = np.maximum(alpha, mask)
    rgb = rgb * (1 + 0.05 * _tiled(spectral(rng, 4, 40), rows, columns)[..., None])
    premultiplied = np.concatenate([np.clip(rgb, 0, 1) * alpha[..., None], alpha[..., None]], axis=-1)
    pixels = (premultiplied * 255).astype(np.uint8)
    return make_sprite(pixels, (REACH * scale, rows / 2), scale)


def _shaft(x: Array, y: Array, kind: int, style: ToolStyle) -> tuple[Array, Array]:
    tip = TIP_LENGTHS[kind]
    half = WIDTHS[kind] * style.girth * (1 - 0.28 * (x + tip))
    across = np.clip(y / half, -1, 1)
    mask = (np.abs(y) < half) & (x < -tip) & (x > -REACH + 0.01)
    tone = 0.35 + 0.65 * np.sqrt(1 - across**2) + 1.1 * np.exp(-(((across - style.light) / 0.16) ** 2)) * 0.5
    rgb = np.asarray(style.shaft, dtype=np.float32) * tone[..., None]
    rgb += 0.22 * np.exp(-(((across - style.light) / 0.12) ** 2))[..., None]
    rgb = _pattern(rgb, x + tip, across, kind)
    if style.wristed:
        ring = np.exp(-(((np.abs(x + tip + 0.07) - 0.025) / 0.008) ** 2))[..., None]
        rgb = rgb + ring * (0.75 - rgb)
    return rgb, mask.astype(np.float32)


def _pattern(rgb: Array, x: Array, across: Array, kind: int) -> Array:
    """The shaft's texture, which is fixed per kind; x is 0 at the shaft's end and negative behind it."""
    arc = np.arcsin(np.clip(across, -1, 1))
    if kind == GRASPER:
        mark = 0.3 * ((np.sin(x * 150 + arc * 5) > 0) ^ (np.sin(x * 150 - arc * 5) > 0))
        gain = 1 + np.where(x > -0.45, mark - 0.15, 0)
    elif kind == BIPOLAR:
        gain = 1 + 0.3 * np.sin(x * 75)
    elif kind == HOOK:
        gain = np.where((x > -0.16) & (x < -0.01), 2.6, 1.0)
    elif kind == SCISSORS:
        gain = np.where(np.sin(x * 22) > 0.8, 0.45, 1.0)
    elif kind == CLIPPER:
        gain = np.where((np.abs(across - 0.15) < 0.2) & (x < -0.05), 0.4, 1.0) * (1 + 0.06 * np.sin(x * 300))
    else:
        gain = np.where((np.abs(np.sin(x * 26)) < 0.35) & (np.abs(across) < 0.3) & (x > -0.42), 0.15, 1.12)
    lift = np.asarray(gain, dtype=np.float32)[..., None]
    return np.where(lift > 2, np.float32(0.75) * (0.4 + rgb), rgb * lift).astype(np.float32)


def _mask(polygon: Polygon, scale: float, columns: int, rows: int) -> Array:
    image = Image.new("L", (columns * OVERSAMPLE, rows * OVERSAMPLE))
    points = [((px + REACH) * scale * OVERSAMPLE, (py * scale + rows / 2) * OVERSAMPLE) for px, py in polygon]
    ImageDraw.Draw(image).polygon(points, fill=255)
    return np.asarray(
        np.asarray(image.resize((columns, rows), Image.Resampling.BOX), dtype=np.float32) / 255, dtype=np.float32
    )


def _tiled(tile: Array, rows: int, columns: int) -> Array:
    return np.tile(tile, (rows // TILE + 1, columns // TILE + 1))[:rows, :columns]


def _turn(polygon: Polygon, pivot: float, angle: float) -> Polygon:
    c, s = np.cos(angle), np.sin(angle)
    return [(pivot + c * (px - pivot) - s * py, s * (px - pivot) + c * py) for px, py in polygon]


def _mirror(polygon: Polygon) -> Polygon:
    return [(px, -py) for px, py in polygon]


def _tip_polygons(kind: int, opening: float, girth: float) -> list[tuple[Polygon, float]]:
    back = -TIP_LENGTHS[kind] - 0.01
    if kind == HOOK:
        return _hook(back)
    if kind == IRRIGATOR:
        half = WIDTHS[IRRIGATOR] * girth
        return [
            ([(back, -half), (0.0, -half * 0.9), (0.0, half * 0.9), (back, half)], 1.0),
            ([(-0.012, -half * 0.6), (0.0, -half * 0.6), (0.0, half * 0.6), (-0.012, half * 0.6)], 0.2),
        ]
    jaw = {GRASPER: _serrated_jaw, BIPOLAR: _thin_jaw, SCISSORS: _blade, CLIPPER: _clip_jaw}[kind](back)
    collar = WIDTHS[kind] * girth * 0.8
    body: Polygon = [(back, -collar), (back + 0.04, -collar * 0.8), (back + 0.04, collar * 0.8), (back, collar)]
    upper, lower = _turn(jaw, back + 0.03, -opening), _turn(_mirror(jaw), back + 0.03, opening)
    parts = [(body, 0.8), (upper, 1.05), (lower, 0.9)]
    if kind == GRASPER:
        window: Polygon = [(back + 0.08, -0.028), (back + 0.14, -0.026), (back + 0.14, -0.014), (back + 0.08, -0.014)]
        parts += [(_turn(window, back + 0.03, -opening), 0.15), (_turn(_mirror(window), back + 0.03, opening), 0.15)]
    return parts


def _hook(back: float) -> list[tuple[Polygon, float]]:
    rod: Polygon = [(back - 0.01, -0.014), (-0.025, -0.014), (-0.025, 0.014), (back - 0.01, 0.014)]
    bend: Polygon = [(-0.04, -0.014), (0.0, -0.014), (0.0, 0.085), (-0.022, 0.085), (-0.026, 0.014), (-0.04, 0.014)]
    return [(rod, 1.0), (bend, 1.1)]


def _serrated_jaw(back: float) -> Polygon:
    teeth: Polygon = [(-0.01 - i * 0.012, -0.002 - (i % 2) * 0.008) for i in range(11)]
    return [(back + 0.02, -0.03), (back + 0.1, -0.045), (-0.03, -0.034), (0.0, -0.012), *teeth, (back + 0.02, 0.0)]


def _thin_jaw(back: float) -> Polygon:
    return [
        (back + 0.02, -0.02),
        (back + 0.08, -0.05),
        (-0.04, -0.026),
        (0.0, -0.002),
        (-0.05, -0.006),
        (back + 0.08, -0.032),
        (back + 0.02, 0.0),
    ]


def _blade(back: float) -> Polygon:
    return [(back + 0.01, 0.01), (back + 0.03, -0.032), (back + 0.09, -0.03), (0.0, 0.004), (back + 0.04, 0.012)]


def _clip_jaw(back: float) -> Polygon:
    return [
        (back + 0.01, -0.06),
        (back + 0.06, -0.07),
        (-0.01, -0.052),
        (0.0, -0.03),
        (-0.03, -0.022),
        (back + 0.06, -0.026),
        (back + 0.01, 0.0),
    ]


def make_bag(rng: Rng, style: ToolStyle, view_height: int) -> Sprite:
    """A translucent specimen bag: mouth with a dark rim at the left, closed end at the right."""
    scale = 1.3 * view_height
    length, half = 0.85, 0.36
    columns, rows = round((length + 0.1) * scale), round(2 * half * scale)
    x, y = np.meshgrid((np.arange(columns) / scale - 0.05) / length, (np.arange(rows) - rows / 2) / scale / half)
    outline = np.where(x < 0.62, 0.82 - 0.12 * x, 0.75 * np.sqrt(np.clip(1 - ((x - 0.62) / 0.38) ** 2, 0, 1)))
    inside = np.clip((outline - np.abs(y)) * 30, 0, 1) * (x > 0)
    wrinkle = _tiled(spectral(rng, 2, 7, angle=0.3, stretch=2), rows, columns)
    glint = np.exp(-((wrinkle - 1.1) ** 2) * 8)
    tint = np.asarray([0.78, 0.8, 0.84]) * rng.uniform(0.8, 1.1) * np.exp(rng.normal(0, 0.07, 3))
    rgb = tint * (0.62 + 0.14 * wrinkle + 0.1 * np.sqrt(np.clip(1 - y**2, 0, 1)))[..., None] + 0.35 * glint[..., None]
    rim = np.exp(-(((np.hypot((x - 0.06) / 0.08, y / 0.85) - 1) / 0.22) ** 2))
    rgb += rim[..., None] * (np.asarray(style.shaft) * 0.6 - rgb)
    mouth = np.hypot((x - 0.06) / 0.07, y / 0.8) < 0.9
    alpha = np.maximum(inside * (0.62 + 0.3 * glint), rim)
    rgb, alpha = np.where(mouth[..., None], rgb * 0.35, rgb), np.where(mouth, 0.8, alpha)
    pixels = (np.clip(np.concatenate([rgb * alpha[..., None], alpha[..., None]], axis=-1), 0, 1) * 255).astype(np.uint8)
    return make_sprite(pixels, (columns / 2, rows / 2), scale)
