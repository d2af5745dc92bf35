"""Vision transformers in plain PyTorch, with the names of the published code, to check converted weights.

One network covers DINO (arXiv 2104.14294), the encoders of MAE (2111.06377) and MoCo v3 (2104.02057; 12 heads in its
ViT-S), DINOv2 with and without registers (2304.07193, 2309.16588) and DINOv3 (2508.10104). `randomise` fills any
reference network, of this file or another, with weights that all matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

Rope = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Self-attention; with `rope` the queries and keys of the patches, the last tokens, are rotated first."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        weights = (q @ k.transpose(-2, -1) / (C // self.heads) ** 0.5).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(B, N, C))
        return out


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate the first half of each patch's channels against the second; earlier tokens stay."""
    sin, cos = rope
    others, patches = x[..., : -len(sin), :], x[..., -len(sin) :, :]
    first, second = patches.chunk(2, dim=-1)
    return torch.cat([others, patches * cos + torch.cat([-second, first], dim=-1) * sin], dim=-2)


class RopeEmbed(nn.Module):
    """DINOv3's axial rotary embedding: half the angles from a patch's row, half from its column, in [-1, 1]."""

    periods: Tensor

    def __init__(self, head_dim: int, base: float = 100.0) -> None:
        super().__init__()
        self.register_buffer("periods", base ** (2 * torch.arange(head_dim // 4) / (head_dim // 2)))

    def forward(self, height: int, width: int) -> Rope:
        rows = 2 * (torch.arange(height) + 0.5) / height - 1
        columns = 2 * (torch.arange(width) + 0.5) / width - 1
        places = torch.cartesian_prod(rows, columns)
        angles = (2 * math.pi * places[:, :, None] / self.periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and an MLP of four times the width with exact GELU, each added from a normed branch."""

    def __init__(self, dim: int, heads: int, layer_scale: bool, eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        hidden = nn.functional.gelu(self.mlp["fc1"](self.norm2(x)))
        out: Tensor = x + self.ls2(self.mlp["fc2"](hidden))
        return out


class ViT(nn.Module):
    """Images [B, 3, H, W] to the class token after the final norm [B, dim].

    `rope` (DINOv3) replaces the learned positions and calls the registers `storage_tokens`; `mask_token` adds that
    unused parameter; `chunks` names the blocks `blocks.{chunk}.{i}`, i counted over all chunks (DINOv2's training).
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        image: int,
        layer_scale: bool = False,
        registers: int = 0,
        rope: bool = False,
        mask_token: bool = False,
        chunks: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        self.pos_embed = None if rope else nn.Parameter(torch.zeros(1, 1 + (image // patch) ** 2, dim))
        self.rope_embed = RopeEmbed(dim // heads) if rope else None
        self.register_name = "storage_tokens" if rope else "register_tokens"
        if registers:
            self.register_parameter(self.register_name, nn.Parameter(torch.zeros(1, registers, dim)))
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, dim))
        blocks = {str(i): Block(dim, heads, layer_scale, eps) for i in range(depth)}
        self.blocks = nn.ModuleDict(blocks)
        if chunks is not None:
            groups = [list(blocks.items())[c * depth // chunks : (c + 1) * depth // chunks] for c in range(chunks)]
            self.blocks = nn.ModuleDict({str(c): nn.ModuleDict(dict(group)) for c, group in enumerate(groups)})
        self.norm = nn.LayerNorm(dim, eps=eps)

    def each_block(self) -> Iterator[Block]:
        """The blocks in order, whatever they are grouped in."""
        return (module for module in self.blocks.modules() if isinstance(module, Block))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        registers = getattr(self, self.register_name, None)
        if registers is not None:
            x = torch.cat([x[:, :1], registers.expand(len(images), -1, -1), x[:, 1:]], dim=1)
        rope = None if self.rope_embed is None else self.rope_embed(*patches.shape[2:])
        for block in self.each_block():
            x = block(x, rope)
        out: Tensor = self.norm(x)[:, 0]
        return out


def randomise(module: nn.Module, seed: int) -> None:
    """Draw every parameter, and batch norm's statistics, so that each part shows in the output.

    Norm weights and shortcut scales lie around 1, layer scales around 0.5, biases around 0, and matrices keep the
    size of what they multiply. Other buffers, such as `rope_embed.periods`, stay.
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = {key: value for key, value in module.named_buffers() if "running_" in key}
    for key, value in {**dict(module.named_parameters()), **statistics}.items():
        name = key.rpartition(".")[2]
        if name in ("gamma", "layer_scale"):
            mean, deviation = 0.5, 0.1
        elif name in ("scale", "running_var") or (name == "weight" and value.ndim == 1):
            mean, deviation = 1.0, 0.2
        elif name in ("bias", "beta", "running_mean"):
            mean, deviation = 0.0, 0.1
        elif name.endswith(("token", "tokens", "pos_embed")):
            mean, deviation = 0.0, 0.5
        else:
            mean, deviation = 0.0, value[0].numel() ** -0.5
        draw = torch.empty(value.shape).normal_(mean, deviation, generator=generator)
        value.data.copy_(draw.abs() if name == "running_var" else draw)
