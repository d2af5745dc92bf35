"""Baselines that need no network: what a backbone must beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trocar.core.registry import Registry
from trocar.downstream.features.feature_cache import Features
from trocar.downstream.features.frame_cache import FrameCache

Baseline = Callable[[FrameCache], Features]
"""baseline(frames) -> float32 [n, D] for all frames of the data set, in the order of its table."""

BASELINES: Registry[Baseline] = Registry(
    "baselines", "baseline", accepts=callable, expected="a function of a FrameCache that returns features"
)
"""Every baseline that has features, by name: all protocols take them like a backbone's."""

SIZE = 32
"""Pixels on a side of the frames that baselines look at."""


def mean_colour(frames: FrameCache) -> Features:
    """Mean and standard deviation of R, G and B over the frame: float32 [n, 6] in 0..1."""
    pixels = frames.get(SIZE).astype(np.float32) / 255
    return np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1)


BASELINES.register(mean_colour, "mean colour")


def raw_pixels(frames: FrameCache) -> Features:
    """32 x 32 RGB, flattened: float32 [n, 3072] in 0..1."""
    pixels = frames.get(SIZE)
    flat: Features = pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)
    return flat


BASELINES.register(raw_pixels, "raw pixels")


def time_in_video(frames: FrameCache) -> Features:
    """t, its share f of the video's last labelled time, f^2, f^3 and log(1 + t): float32 [n, 5], t in
    seconds.

    The share needs the end of the video, which no online method has.
    """
    table = frames.data.frames
    seconds = table["time_s"].to_numpy(np.float32)
    last = table.groupby("video")["time_s"].transform("max").to_numpy(np.float32)
    share = np.divide(seconds, last, out=np.zeros_like(seconds), where=last > 0)
    return np.stack([seconds, share, share**2, share**3, np.log1p(seconds)], axis=1).astype(np.float32)


BASELINES.register(time_in_video, "time")
