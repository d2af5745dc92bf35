"""Colour alone, without any structure."""

from __future__ import annotations

import numpy as np

from trocar.downstream.features.baselines.base import BASELINES, SIZE
from trocar.downstream.features.feature_cache import Features
from trocar.downstream.features.frame_cache import FrameCache


def mean_colour(frames: FrameCache) -> Features:
    """Mean and standard deviation of R, G and B over the frame: float32 [n, 6] in 0..1."""
    pixels = frames.get(SIZE).astype(np.float32) / 255
    return np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1)


BASELINES.register(mean_colour, "mean colour")
