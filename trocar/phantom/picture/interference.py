"""Periodic disturbances of a hospital's video chain: constant for all its cases, in another phase in every frame.

A network that has seen them learns to look through them; one that has not finds edges everywhere. They lie in every
view of a frame and say nothing about it, and neither colour jitter nor a blur of a sigma below their period takes them
away: that is why pretraining on the other hospital costs something here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trocar.phantom.picture.textures import Array, Rng


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
