"""Baselines that need no network, by name: what a backbone must beat. One file each."""

from __future__ import annotations

from trocar.downstream.baselines.base import Baseline
from trocar.downstream.baselines.colour import mean_colour
from trocar.downstream.baselines.pixels import raw_pixels
from trocar.downstream.baselines.time import time_in_video

BASELINES: dict[str, Baseline] = {"raw pixels": raw_pixels, "mean colour": mean_colour, "time": time_in_video}
"""Features that all protocols take like any backbone's."""
