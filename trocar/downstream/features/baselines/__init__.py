"""Baselines that need no network, by name: what a backbone must beat. One file each."""

from __future__ import annotations

from trocar.downstream.features.baselines.base import Baseline
from trocar.downstream.features.baselines.colour import mean_colour
from trocar.downstream.features.baselines.pixels import raw_pixels
from trocar.downstream.features.baselines.time import time_in_video

BASELINES: dict[str, Baseline] = {"raw pixels": raw_pixels, "mean colour": mean_colour, "time": time_in_video}
"""Features that all protocols take like any backbone's."""
