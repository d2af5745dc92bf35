"""Gaussian blur of views: a separable kernel as wide as its sigma asks for, summed from shifted copies.

On a CPU the shifted sum is several times as fast as a matrix product or a convolution at these sizes
(`benchmarks/augment.py`), one view after the other. `blur` is for batches on a GPU, inside the graph that a pretraining
run compiles (`augment.py`), where a shift is another address and no copy; run as it is, each shift passes over all
views. It blurs views with sigma 0 along with the others, by a kernel of one pixel: picking the others would give the
graph another shape at each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

REACH = 3.0
"""The kernel ends at ceil(3 sigma) pixels; 0.3 % of the Gaussian's weight lies beyond."""


def radius_of(sigma: float, size: int) -> int:
    """Pixels that a kernel of `sigma` reaches to each side; never past the mirrored edge of the view."""
    return min(math.ceil(REACH * sigma), size - 1)


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur float[n, C, S, S] by sigma float[n] in pixels (0: not at all); edges are mirrored without repeating them.

    `radius` is the widest kernel's, at least `radius_of` each sigma.
    """
    at = torch.arange(radius + 1, device=x.device, dtype=torch.float32)
    width = torch.where(sigma > 0, sigma, 1.0)[:, None]
    inside = at <= torch.ceil(REACH * sigma)[:, None]
    taps = torch.where(inside, torch.exp(-at.square() / (2 * width.square())), 0.0)
    taps = taps / (2 * taps.sum(-1, keepdim=True) - taps[:, :1])
    weights: list[float | Tensor] = [w[:, None, None, None] for w in taps.unbind(-1)]
    return _along(_along(x, weights, 2), weights, 3)


def blur_view(x: Tensor, sigma: float) -> Tensor:
    """`blur` of one view float[C, S, S] by sigma > 0, doing no more than it needs."""
    half = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(radius_of(sigma, x.shape[-1]) + 1)]
    total = 2 * sum(half) - half[0]
    weights: list[float | Tensor] = [w / total for w in half]
    return _along(_along(x, weights, 1), weights, 2)


def _along(x: Tensor, weights: Sequence[float | Tensor], dim: int) -> Tensor:
    """One direction: the sum of copies shifted by k = 0, 1, ... to both sides, times weights[k]."""
    radius, size = len(weights) - 1, x.shape[dim]
    if radius == 0:
        return x
    before, after = x.narrow(dim, 1, radius).flip(dim), x.narrow(dim, size - 1 - radius, radius).flip(dim)
    padded = torch.cat([before, x, after], dim)
    out = x * weights[0]
    for k, weight in enumerate(weights[1:], start=1):
        for start in (radius - k, radius + k):
            part = padded.narrow(dim, start, size)
            if isinstance(weight, Tensor):
                out = torch.addcmul(out, part, weight)
            else:
                out.add_(part, alpha=weight)
    return out
