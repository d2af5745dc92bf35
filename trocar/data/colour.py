"""Colour jitter and grey as one affine map per view, on any device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from trocar.data.constant import constant

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's and torchvision's grey
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
# What a rotation in YIQ keeps, and what it multiplies by the cosine and by the sine, back in RGB.
_IN_YIQ = np.array([np.diag([1, 0, 0]), np.diag([0, 1, 1]), [[0, 0, 0], [0, 0, -1], [0, 1, 0]]])
_TURN = tuple(tuple(map(tuple, turn)) for turn in (np.linalg.inv(np.array(_YIQ)) @ _IN_YIQ @ np.array(_YIQ)).tolist())


def colour_maps(mean: Tensor, colour: Tensor, order: Tensor, grey: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map of jitter and grey: matrix float32[n, 3, 3] and offset float32[n, 3, 1], for RGB in 0..1.

    `mean` float32[n, 3] is each view's own mean colour (contrast pulls towards its luma), `colour` float32[n, 4] and
    `order` int[n, 4] as in ViewParams, `grey` bool[n]. All four operations of ColorJitter are affine in RGB, so their
    composition is, in any order.
    """
    n, device = mean.shape[0], mean.device
    eye = torch.eye(3, device=device).expand(n, 3, 3)
    luma = constant((LUMA,), device)
    to_grey = luma.expand(3, 3)
    brightness, contrast, saturation, hue = colour[..., None, None].unbind(1)
    saturate = torch.lerp(to_grey, eye, saturation)
    linear = torch.stack([brightness * eye, contrast * eye, saturate, _hue_rotation(hue)], 1)
    steps = linear.gather(1, order.long()[..., None, None].expand(n, 4, 3, 3))
    away = torch.where(order == 1, 1 - colour[:, 1:2], 0.0)[..., None, None]
    matrix, offset, mean = eye, torch.zeros(n, 3, 1, device=device), mean[..., None]
    for step, share in zip(steps.unbind(1), away.unbind(1), strict=True):
        towards = share * (luma @ (matrix @ mean + offset))
        matrix, offset = step @ matrix, step @ offset + towards
    grey = grey[:, None, None]
    return torch.where(grey, to_grey @ matrix, matrix), torch.where(grey, to_grey @ offset, offset)


def _hue_rotation(hue: Tensor) -> Tensor:
    """Rotation of the chroma plane of YIQ by `hue` turns: float32[n, 1, 1] -> float32[n, 3, 3]."""
    # HSV counts its angle from red to green, which is clockwise in the (I, Q) plane.
    angle = hue * (-2 * math.pi)
    keep, cosine, sine = constant(_TURN, hue.device)
    rotation: Tensor = keep + angle.cos() * cosine + angle.sin() * sine
    return rotation
