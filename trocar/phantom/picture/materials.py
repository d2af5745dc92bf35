"""The tissues of a phantom. Types differ in texture (lobules, striations, webs, folds); colour varies per patient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trocar.phantom.picture.textures import Array, Rng, cells, pack, ridges, shift, spectral, tint, vessels

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
