"""The shape of a baseline."""

from __future__ import annotations

from collections.abc import Callable

from trocar.core.registry import Registry
from trocar.downstream.features.feature_cache import Features
from trocar.downstream.features.frame_cache import FrameCache

Baseline = Callable[[FrameCache], Features]
"""baseline(frames) -> float32 [n, D] for all frames of the data set, in the order of its table."""

BASELINES: Registry[Baseline] = Registry(
    "baselines",
    "baseline",
    package="trocar.downstream.features.baselines",
    accepts=callable,
    expected="a function of a FrameCache that returns features",
)
"""Every baseline that has features, by name: all protocols take them like a backbone's."""

SIZE = 32
"""Pixels on a side of the frames that baselines look at."""
