"""The pixels of RandAugment: every operation on float[n, 3, S, S] in 0..1, batched, on any device.

Definitions are PIL's as timm calls them. Deviations: geometry is always bilinear (timm flips a coin between bilinear
and bicubic), and values are not rounded to 8 bits between operations except where `equalize` needs a histogram.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.data.colour import LUMA
from trocar.data.constant import constant
from trocar.data.randaugment import OPERATIONS, Operation

FILL = 128 / 255  # what comes into view from outside the picture
_ROTATE, _SHEAR, _TRANSLATE, _ENHANCE = 30.0, 0.3, 0.45, 0.9  # degrees, slope, share of the side, factor at level 1


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
    counts = torch.zeros(*value.shape[:2], 256, dtype=torch.long, device=x.device)
    counts = counts.scatter_add(2, value, torch.ones_like(value))
    last = torch.gather(counts, 2, value.amax(2, keepdim=True))
    step = (counts.sum(2, keepdim=True) - last) // 255
    before = counts.cumsum(2) - counts
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    equalized = torch.gather(table, 2, value).view(x.shape).to(x.dtype) / 255
    return torch.where(step[..., None] > 0, equalized, x)


def _warp(x: Tensor, *rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Sample at (row . (X, Y, 1)), both axes from -1 to 1 over the view; outside it is FILL."""
    theta = torch.stack([torch.stack(row, -1) for row in rows], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x - FILL, grid, align_corners=False) + FILL


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
