"""The picture itself, small."""

from __future__ import annotations

import numpy as np

from trocar.downstream.features.baselines.base import BASELINES, SIZE
from trocar.downstream.features.feature_cache import Features
from trocar.downstream.features.frame_cache import FrameCache


def raw_pixels(frames: FrameCache) -> Features:
    """32 x 32 RGB, flattened: float32 [n, 3072] in 0..1."""
    pixels = frames.get(SIZE)
    flat: Features = pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)
    return flat


BASELINES.register(raw_pixels, "raw pixels")
