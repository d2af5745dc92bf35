"""RandAugment for surgery and random erasing: what a recipe may ask for, and each view's share of it.

Operations and magnitudes are those of SelfSupSurg's recipes (Ramesh et al., Medical Image Analysis 2023), which take
them from timm's "increasing" RandAugment: of L layers each draws one operation, applies it with probability p, at a
magnitude normal around `magnitude` and clipped to 0..10, with a random sign. Pixels are `randaugment_ops.py`'s.

The pixels of RandAugment: every operation on float[n, 3, S, S] in 0..1, batched, on any device.

Definitions are PIL's as timm calls them. Deviations: geometry is always bilinear (timm flips a coin between bilinear
and bicubic), and values are not rounded to 8 bits between operations except where `equalize` needs a histogram.

On a GPU nothing here is a matrix product: where those may use TF32, they round their factors to 11 bits, which would
move the picture of a rotation by a twentieth of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from trocar.core.config import Config
from trocar.core.random import U32, below, uniform
from trocar.data.views.pixel_ops import LUMA, constant, sent

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
    """Random operations in a row, as timm draws them."""

    operations: list[Operation] = Field(default=list(OPERATIONS), min_length=1, description="what is drawn from")
    layers: int = Field(default=2, ge=1, le=MAX_LAYERS, description="operations in a row, 1 to 4")
    magnitude: float = Field(default=8.0, ge=0, le=10, description="mean strength on timm's scale, 0 to 10")
    magnitude_std: float = Field(default=0.5, ge=0, description="standard deviation of the strength, on the same scale")
    p: float = Field(default=0.5, ge=0, le=1, description="probability that each layer is applied, 0 to 1")

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

    p: float = Field(default=0.8, ge=0, le=1, description="probability that a view has the rectangle, 0 to 1")
    scale: tuple[float, float] = Field(default=(0.02, 0.1), description="share of the view's area, lowest and highest")
    ratio: tuple[float, float] = Field(default=(0.3, 3.3), description="width by height, lowest and highest")

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


FILL = 128 / 255  # what comes into view from outside the picture
_ROTATE, _SHEAR, _TRANSLATE, _ENHANCE = 30.0, 0.3, 0.45, 0.9  # degrees, slope, share of the side, factor at level 1
LANES = 32  # the threads of a GPU that run in step


@dataclass(frozen=True)
class Draw:
    """Views that one operation is applied to: its code, their indices int64[k] and levels float32[k] on the device."""

    code: int
    index: Tensor
    level: Tensor


def draws(rand_op: npt.NDArray[np.int8], rand_level: npt.NDArray[np.float32], device: torch.device) -> list[Draw]:
    """What n views draw (`rand_op` int8[n, L] and `rand_level` float32[n, L] of ViewParams), in order of application.

    Who draws what is known on the host, so no more than two copies go to the device, and nothing is asked of it.
    """
    parts = [
        (code, layer, np.flatnonzero(drawn == code))
        for layer, drawn in enumerate(rand_op.T)
        for code in np.unique(drawn[drawn > 0]).tolist()
    ]
    if not parts:
        return []
    views = [views for *_, views in parts]
    sizes = [len(each) for each in views]
    index = torch.split(sent(np.concatenate(views), device), sizes)
    level = torch.split(sent(np.concatenate([rand_level[each, layer] for _, layer, each in parts]), device), sizes)
    return [Draw(code, at, by) for (code, *_), at, by in zip(parts, index, level, strict=True)]


def apply_draws_(x: Tensor, found: list[Draw]) -> Tensor:
    """Each view's operations, in place: float[n, 3, S, S] in 0..1, of which only views that drew one are touched."""
    for draw in found:
        x.index_copy_(0, draw.index, apply_code(x.index_select(0, draw.index), draw.code, draw.level))
    return x


def apply_code(x: Tensor, code: int, level: Tensor) -> Tensor:
    """Operation number `code` (1 for the first of OPERATIONS) on all views, with levels float[n] in -1..1."""
    return _PIXELS[OPERATIONS[code - 1]](x, level)


def _factor(level: Tensor) -> Tensor:
    return (1 + _ENHANCE * level).clamp(min=0.1)[:, None, None, None]


def _blend(other: Tensor, x: Tensor, level: Tensor) -> Tensor:
    return (other + (x - other) * _factor(level)).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    luma = constant(LUMA, x.device)[None, :, None, None]
    return (x * luma).sum(1, keepdim=True)


def _colour(x: Tensor, level: Tensor) -> Tensor:
    return _blend(_grey(x), x, level)


def _contrast(x: Tensor, level: Tensor) -> Tensor:
    return _blend(_grey(x).mean((2, 3), keepdim=True), x, level)


def _brightness(x: Tensor, level: Tensor) -> Tensor:
    return _blend(torch.zeros_like(x), x, level)


def _sharpness(x: Tensor, level: Tensor) -> Tensor:
    """Away from PIL's SMOOTH filter (1 5 1 in a frame of ones, by 13); the outermost pixels stay."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    box = sum(padded[..., i : i + x.shape[-2], j : j + x.shape[-1]] for i in range(3) for j in range(3))
    smooth = (box + 4 * x) / 13
    rows, columns = (torch.arange(s, device=x.device) for s in x.shape[-2:])
    inside = ((rows > 0) & (rows < x.shape[-2] - 1))[:, None] & ((columns > 0) & (columns < x.shape[-1] - 1))
    return torch.where(inside, _blend(smooth, x, level), x)


def _auto_contrast(x: Tensor, level: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    spread = high > low
    return torch.where(spread, (x - low) / torch.where(spread, high - low, 1.0), x)


def _equalize(x: Tensor, level: Tensor) -> Tensor:
    """PIL's equalize: a look-up table from each channel's histogram of 256 bins."""
    value = (x * 255).round().long().flatten(2)
    counts = histogram(value, 1 if x.device.type == "cpu" else LANES)
    last = torch.gather(counts, 2, value.amax(2, keepdim=True))
    step = (counts.sum(2, keepdim=True) - last) // 255
    before = counts.cumsum(2) - counts
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    equalized = torch.gather(table, 2, value).view(x.shape).to(x.dtype) / 255
    return torch.where(step[..., None] > 0, equalized, x)


def histogram(value: Tensor, lanes: int) -> Tensor:
    """How often each of 0..255 comes in the rows of int64[n, C, P]: int64[n, C, 256].

    Pixels are counted in `lanes` histograms in turn, which are added up. On a GPU neighbours are counted at the same
    time: pixels of the same value, as most of the black around a surgical view, would wait for each other. Counts are
    whole numbers, so the result is the same.
    """
    n, channels, pixels = value.shape
    at, one = value, torch.ones((), dtype=torch.int32, device=value.device)
    if lanes > 1:
        at = value + torch.arange(pixels, device=value.device) % lanes * 256
    counts = torch.zeros(n, channels, lanes * 256, dtype=torch.int32, device=value.device)
    counts.scatter_add_(2, at, one.expand_as(at))
    return counts.view(n, channels, lanes, 256).sum(2)


def _warp(x: Tensor, *rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Sample at (row . (X, Y, 1)), both axes from -1 to 1 over the view; outside it is FILL."""
    theta = torch.stack([torch.stack(row, -1) for row in rows], 1)
    # torch's is a matrix product; the bits of views made on a CPU are its.
    on_cpu = x.device.type == "cpu"
    grid = F.affine_grid(theta, list(x.shape), align_corners=False) if on_cpu else written_out_grid(theta, x.shape[-1])
    return F.grid_sample(x - FILL, grid, align_corners=False) + FILL


def written_out_grid(theta: Tensor, size: int) -> Tensor:
    """`affine_grid` of float32[n, 2, 3] for square views, without a matrix product: float32[n, S, S, 2]."""
    at = (2 * torch.arange(size, device=theta.device, dtype=torch.float32) + 1) / size - 1
    by_column, by_row, shift = (part[:, None, None] for part in theta.unbind(-1))
    return by_column * at[:, None] + by_row * at[:, None, None] + shift


def _rotate(x: Tensor, level: Tensor) -> Tensor:
    angle = level * math.radians(_ROTATE)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(level)
    return _warp(x, (cos, -sin, zero), (sin, cos, zero))


def _shear_x(x: Tensor, level: Tensor) -> Tensor:
    one, zero, slope = torch.ones_like(level), torch.zeros_like(level), _SHEAR * level
    return _warp(x, (one, slope, slope), (zero, one, zero))


def _shear_y(x: Tensor, level: Tensor) -> Tensor:
    one, zero, slope = torch.ones_like(level), torch.zeros_like(level), _SHEAR * level
    return _warp(x, (one, zero, zero), (slope, one, slope))


def _translate_x(x: Tensor, level: Tensor) -> Tensor:
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(x, (one, zero, 2 * _TRANSLATE * level), (zero, one, zero))


def _translate_y(x: Tensor, level: Tensor) -> Tensor:
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(x, (one, zero, zero), (zero, one, 2 * _TRANSLATE * level))


_PIXELS: dict[Operation, Callable[[Tensor, Tensor], Tensor]] = {
    "sharpness": _sharpness,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": _brightness,
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
