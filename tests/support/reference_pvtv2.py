"""PVTv2 in plain PyTorch, with the names of the published code (whai362/PVT), to check converted weights.

PVT v2: Improved Baselines with Pyramid Vision Transformer, arXiv 2106.13797: overlapping patch embeddings, attention
on spatially reduced keys and values, and a depthwise convolution inside each MLP. As in the published code, the norms
of the blocks and of the stages have an eps of 1e-6, those of the patch embeddings and of the reduction 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, height: int) -> Tensor:
    """[B, H * W, C] to [B, C, H, W]."""
    return x.transpose(1, 2).reshape(len(x), x.shape[2], height, -1)


class PatchEmbed(nn.Module):
    """A strided convolution whose windows overlap, and a norm over the channels; gives a map."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return to_map(self.norm(to_tokens(x)), x.shape[2])


class Attention(nn.Module):
    """Attention whose keys and values come from a map made `sr` times smaller by a strided convolution."""

    def __init__(self, dim: int, heads: int, sr: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, sr, sr) if sr > 1 else None
        self.norm = nn.LayerNorm(dim, eps=1e-5) if sr > 1 else None

    def forward(self, x: Tensor, height: int) -> Tensor:
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.heads, C // self.heads).transpose(1, 2)
        if self.sr is not None and self.norm is not None:
            x = self.norm(to_tokens(self.sr(to_map(x, height))))
        k, v = self.kv(x).reshape(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / (C // self.heads) ** 0.5).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(B, N, C))
        return out


class Mlp(nn.Module):
    """An MLP with a depthwise 3x3 convolution between its first layer and its exact GELU."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        hidden = ratio * dim
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, height: int) -> Tensor:
        x = to_tokens(self.dwconv["dwconv"](to_map(self.fc1(x), height)))
        out: Tensor = self.fc2(nn.functional.gelu(x))
        return out


class Block(nn.Module):
    """Attention and MLP, each added from a normed branch."""

    def __init__(self, dim: int, heads: int, ratio: int, sr: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, sr)
        self.mlp = Mlp(dim, ratio)

    def forward(self, x: Tensor, height: int) -> Tensor:
        x = x + self.attn(self.norm1(x), height)
        out: Tensor = x + self.mlp(self.norm2(x), height)
        return out


class PVTv2(nn.Module):
    """Images [B, 3, H, W] to the mean of the last stage's normed tokens [B, dims[-1]]; the defaults are the B2."""

    def __init__(
        self,
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
    ) -> None:
        super().__init__()
        self.stages = len(dims)
        sizes = zip((3, *dims[:-1]), dims, depths, heads, mlp_ratios, sr_ratios, strict=True)
        for i, (in_dim, dim, depth, head_count, ratio, sr) in enumerate(sizes, start=1):
            kernel, stride = (7, 4) if i == 1 else (3, 2)
            self.add_module(f"patch_embed{i}", PatchEmbed(in_dim, dim, kernel, stride))
            self.add_module(f"block{i}", nn.ModuleList(Block(dim, head_count, ratio, sr) for _ in range(depth)))
            self.add_module(f"norm{i}", nn.LayerNorm(dim, eps=1e-6))

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for i in range(1, self.stages + 1):
            x = self.get_submodule(f"patch_embed{i}")(x)
            height, tokens = x.shape[2], to_tokens(x)
            for block in self.get_submodule(f"block{i}").children():
                tokens = block(tokens, height)
            x = to_map(self.get_submodule(f"norm{i}")(tokens), height)
        return x.mean((2, 3))
