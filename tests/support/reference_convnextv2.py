"""ConvNeXt V2 in plain PyTorch, with the names of the published code (facebookresearch/ConvNeXt-V2).

Co-designing and Scaling ConvNets with Masked Autoencoders, arXiv 2301.00808: ConvNeXt blocks with global response
normalisation in place of layer scale. It is here to check converted weights. Activations are channels-last inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

EPS = 1e-6


class ChannelConv(nn.Conv2d):
    """A convolution on channels-last input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GRN(nn.Module):
    """Global response normalisation: each channel's norm over space, against the mean over the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        response = x.square().sum((1, 2), keepdim=True).sqrt()
        relative = response / (response.mean(-1, keepdim=True) + EPS)
        return x + self.gamma * (x * relative) + self.beta


class Block(nn.Module):
    """Depthwise 7x7, norm, and an MLP of four times the width with exact GELU and GRN, added to the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = ChannelConv(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.pwconv1(self.norm(self.dwconv(x))))
        out: Tensor = x + self.pwconv2(self.grn(hidden))
        return out


class ConvNeXtV2(nn.Module):
    """Images [B, 3, H, W] to the norm of the global average pool [B, dims[-1]]; the defaults are the tiny one."""

    def __init__(self, depths: Sequence[int] = (3, 3, 9, 3), dims: Sequence[int] = (96, 192, 384, 768)) -> None:
        super().__init__()
        stem = nn.Sequential(ChannelConv(3, dims[0], 4, 4), nn.LayerNorm(dims[0], eps=EPS))
        between = [nn.Sequential(nn.LayerNorm(a, eps=EPS), ChannelConv(a, b, 2, 2)) for a, b in pairwise(dims)]
        self.downsample_layers = nn.ModuleList([stem, *between])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim) for _ in range(depth))) for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=EPS)

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 2, 3, 1)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        out: Tensor = self.norm(x.mean((1, 2)))
        return out
