"""RandAugment for surgery and random erasing: what a recipe may ask for, and each view's share of it.

Operations and magnitudes are those of SelfSupSurg's recipes (Ramesh et al., Medical Image Analysis 2023), which take
them from timm's "increasing" RandAugment: of L layers each draws one operation, applies it with probability p, at a
magnitude normal around `magnitude` and clipped to 0..10, with a random sign. Pixels are `randaugment_ops.py`'s.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from trocar.core.config import Config
from trocar.core.random import U32, below, uniform

Operation = Literal[
    "sharpness",
    "auto_contrast",
    "equalize",
    "colour",
    "contrast",
    "brightness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
"""In the order of their codes, which start at 1; 0 is no operation."""

MAX_LAYERS = 4
_LAYER_WORDS = 5
WORDS = MAX_LAYERS * _LAYER_WORDS


class RandAugment(Config):
    """`layers` random operations in a row. `magnitude` and its spread are on timm's scale of 0..10."""

    operations: list[Operation] = Field(default=list(OPERATIONS), min_length=1)
    layers: int = Field(default=2, ge=1, le=MAX_LAYERS)
    magnitude: float = Field(default=8.0, ge=0, le=10)
    magnitude_std: float = Field(default=0.5, ge=0)
    p: float = Field(default=0.5, ge=0, le=1, description="of each layer being applied")

    def deal(self, bits: U32) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """uint32[..., WORDS] -> codes int8[..., MAX_LAYERS] and signed magnitudes float32[..., MAX_LAYERS] in -1..1."""
        draws = bits.reshape(*bits.shape[:-1], MAX_LAYERS, _LAYER_WORDS)
        u = uniform(draws)
        codes = np.array([OPERATIONS.index(name) + 1 for name in self.operations], np.int8)
        drawn = codes[below(draws[..., 0], len(codes))]
        applied = (u[..., 1] < self.p) & (np.arange(MAX_LAYERS) < self.layers)
        level = np.clip(self.magnitude + self.magnitude_std * _normal(u[..., 2], u[..., 3]), 0, 10) / 10
        signed = np.where(u[..., 4] < 0.5, -level, level)
        return np.where(applied, drawn, 0).astype(np.int8), np.where(applied, signed, 0).astype(np.float32)


class Erasing(Config):
    """RandomErasing as in torchvision: one rectangle made black, after colour and before normalisation."""

    p: float = Field(default=0.8, ge=0, le=1)
    scale: tuple[float, float] = Field(default=(0.02, 0.1), description="share of the view's area")
    ratio: tuple[float, float] = Field(default=(0.3, 3.3), description="width by height")

    @model_validator(mode="after")
    def _ranges(self) -> Erasing:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {self.scale}: expected 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio {self.ratio}: expected 0 < low <= high")
        return self


def _normal(u: Any, v: Any) -> Any:
    """Box and Muller: two uniforms of [0, 1) -> a standard normal."""
    return np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)
