"""uint8 crops -> augmented, normalised float views. One module for every backend, batched, on any device.

Order of operations as in DINO: flip, colour jitter, grey, blur, solarize, normalise. Deviations from torchvision, both
from making jitter one affine map per view: hue is a rotation of the chroma plane of YIQ rather than a shift in HSV, and
values are clamped once after jitter rather than after each of its four operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trocar.data.views import ViewParams, ViewRecipe

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's and torchvision's grey
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def augment(
    crops: dict[str, Tensor],
    params: ViewParams,
    recipe: ViewRecipe,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Tensor]:
    """{group: uint8[b, n, 3, S, S]} -> {group: float32[b, n, 3, S, S]}, normalised by `mean` and `std` (of 0..1)."""
    return {name: augment_group(crops[name], params.views(which), mean, std) for name, which in recipe.slices().items()}


def augment_group(crops: Tensor, params: ViewParams, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """One group: uint8[b, n, 3, S, S] -> float32[b, n, 3, S, S]."""
    device = crops.device
    x = crops.flatten(0, 1).float().div_(255)
    flip, grey, solarize = (_flat(getattr(params, k), device) for k in ("flip", "grey", "solarize"))
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    matrix, offset = colour_maps(x.mean((-2, -1)), _flat(params.colour, device), _flat(params.order, device), grey)
    x = (torch.bmm(matrix, x.flatten(2)) + offset[..., None]).clamp_(0, 1).view_as(x)
    x = blur(x, _flat(params.sigma, device))
    x = torch.where(solarize[:, None, None, None] & (x >= 127.5 / 255), 1 - x, x)
    x = (x - _column(mean, device)) / _column(std, device)
    return x.view(crops.shape)


def colour_maps(mean: Tensor, colour: Tensor, order: Tensor, grey: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map of jitter and grey: matrix float32[n, 3, 3] and offset float32[n, 3], for RGB in 0..1.

    `mean` float32[n, 3] is each view's own mean colour (contrast pulls towards its luma), `colour` float32[n, 4] and
    `order` int8[n, 4] as in ViewParams, `grey` bool[n]. All four operations of ColorJitter are affine in RGB, so their
    composition is, in any order.
    """
    n, device = mean.shape[0], mean.device
    eye = torch.eye(3, device=device).expand(n, 3, 3)
    luma = torch.tensor(LUMA, device=device)
    to_grey = torch.ones(3, 1, device=device) @ luma[None]
    brightness, contrast, saturation, hue = colour.unbind(-1)
    linear = torch.stack(
        [
            brightness[:, None, None] * eye,
            contrast[:, None, None] * eye,
            saturation[:, None, None] * eye + (1 - saturation)[:, None, None] * to_grey,
            _hue_rotation(hue),
        ],
        dim=1,
    )
    matrix, offset = eye, torch.zeros_like(mean)
    for place in range(4):
        op = order[:, place].long()
        step = linear[torch.arange(n, device=device), op]
        pulled = (matrix @ mean[..., None])[..., 0] + offset
        towards = torch.where(op == 1, (1 - contrast) * (pulled @ luma), 0.0)
        matrix = step @ matrix
        offset = (step @ offset[..., None])[..., 0] + towards[:, None]
    matrix = torch.where(grey[:, None, None], to_grey @ matrix, matrix)
    return matrix, torch.where(grey[:, None], offset @ to_grey.T, offset)


def _hue_rotation(hue: Tensor) -> Tensor:
    """Rotation of the chroma plane by `hue` turns: float32[n] -> float32[n, 3, 3]."""
    to_yiq = torch.tensor(_YIQ, device=hue.device)
    # HSV counts its angle from red to green, which is clockwise in the (I, Q) plane.
    angle = hue * (-2 * math.pi)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(hue), torch.ones_like(hue)
    rotation = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], -1).view(-1, 3, 3)
    out: Tensor = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return out


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of float[n, 3, S, S] by sigma float[n] in pixels (0: none), edges reflected.

    A separable blur is two matrix products with a banded S x S matrix: one shape for every sigma, and fast as such.
    """
    chosen = torch.nonzero(sigma > 0)[:, 0]
    if not chosen.numel():
        return x
    kernel = blur_matrices(sigma[chosen], x.shape[-1])[:, None]
    return x.index_copy(0, chosen, kernel @ x[chosen] @ kernel.mT)


def blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """float[n] -> float[n, S, S]: row i holds the weights of pixel i; borders are mirrored, not repeated."""
    at = torch.arange(size, device=sigma.device, dtype=torch.float32)
    row = at[:, None]
    images = torch.stack([row - at, row + at, row - (2 * (size - 1) - at)])
    exponent = -images.square()[None] / (2 * sigma[:, None, None, None].square())
    weights = exponent.exp()
    # Pixel 0 mirrored at the left edge is itself, and so is the last one at the right edge: count each once.
    left, right = weights[:, 1] * (at > 0), weights[:, 2] * (at < size - 1)
    total = weights[:, 0] + left + right
    return total / total.sum(-1, keepdim=True)


def _flat(values: object, device: torch.device) -> Tensor:
    return torch.as_tensor(values).flatten(0, 1).to(device, non_blocking=True)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)[:, None, None]
