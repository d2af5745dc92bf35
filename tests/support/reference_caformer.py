"""CAFormer in plain PyTorch, with the names of the published code (sail-sg/metaformer), to check converted weights.

MetaFormer Baselines for Vision, arXiv 2210.13452: separable convolutions in the first two stages, attention in the
last two. SurgeNet's CAFormer is this network with ReLU in place of StarReLU. Activations are channels-last inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HEAD_DIM = 32
EPS = 1e-6


def bare_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm over the channels, with a weight and no bias."""
    return nn.LayerNorm(dim, eps=EPS, bias=False)


class Scale(nn.Module):
    """The learned factor per channel on a residual branch's shortcut."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Downsampling(nn.Module):
    """The stem (7x7, stride 4, norm after) or the step between two stages (norm before, 3x3, stride 2)."""

    def __init__(self, in_dim: int, dim: int, stem: bool) -> None:
        super().__init__()
        self.pre_norm = nn.Identity() if stem else bare_norm(in_dim)
        self.conv = nn.Conv2d(in_dim, dim, 7, 4, 2) if stem else nn.Conv2d(in_dim, dim, 3, 2, 1)
        self.post_norm = bare_norm(dim) if stem else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pre_norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.post_norm(x)
        return out


class SepConv(nn.Module):
    """Pointwise to twice the width, ReLU, depthwise 7x7, pointwise back; no biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pwconv1 = nn.Linear(dim, 2 * dim, bias=False)
        self.dwconv = nn.Conv2d(2 * dim, 2 * dim, 7, padding=3, groups=2 * dim, bias=False)
        self.pwconv2 = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pwconv1(x).relu()
        x = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.pwconv2(x)
        return out


class Attention(nn.Module):
    """Self-attention over all positions, in heads of 32 channels; no biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        qkv = self.qkv(x).reshape(B, H * W, 3, C // HEAD_DIM, HEAD_DIM)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / HEAD_DIM**0.5).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(B, H, W, C))
        return out


class Mlp(nn.Module):
    """Four times the width, with ReLU; no biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim, bias=False)
        self.fc2 = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(x).relu())
        return out


class Block(nn.Module):
    """Token mixer and MLP, each on a normed branch; attention blocks also scale the shortcuts."""

    def __init__(self, dim: int, attention: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = bare_norm(dim), bare_norm(dim)
        self.token_mixer = Attention(dim) if attention else SepConv(dim)
        self.mlp = Mlp(dim)
        self.res_scale1 = Scale(dim) if attention else nn.Identity()
        self.res_scale2 = Scale(dim) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.res_scale1(x) + self.token_mixer(self.norm1(x))
        out: Tensor = self.res_scale2(x) + self.mlp(self.norm2(x))
        return out


class CAFormer(nn.Module):
    """Images [B, 3, H, W] to the norm of the global average pool [B, dims[-1]]; the defaults are the S18."""

    def __init__(self, depths: Sequence[int] = (3, 3, 9, 3), dims: Sequence[int] = (64, 128, 320, 512)) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList(
            Downsampling(a, b, stem=s == 0) for s, (a, b) in enumerate(zip((3, *dims[:-1]), dims, strict=True))
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, attention=s >= 2) for _ in range(depth)))
            for s, (depth, dim) in enumerate(zip(depths, dims, strict=True))
        )
        self.norm = nn.LayerNorm(dims[-1], eps=EPS)

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 2, 3, 1)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        out: Tensor = self.norm(x.mean((1, 2)))
        return out
