"""A transformer encoder over the frames of a case, causal unless told otherwise."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import override

from trocar.downstream.labels import Kind
from trocar.downstream.temporal.head import HEADS, Head, HeadConfig, HeadRecipe, window_attention


@HEADS.register
class TransformerConfig(HeadConfig):
    """Causal transformer in the shape that SurgPhaseBench gives OperA (Czempiel et al., MICCAI 2021): 11 layers, 1
    head, 64 dimensions, feed-forward 256, dropout 0.1.

    Without OperA's regularisation of the attention towards confident frames. Unlike there, layers normalise first
    (pre-norm), so that no warm-up is needed, the feed-forward has a GELU, and there are positions: sinusoidal in the
    index of the frame, not in seconds, so train and predict at the same frame rate. The recipe (AdamW 7e-4, weight
    decay 1e-4, clip 1, 150 epochs) is the one SurgPhaseBench trains its causal ASFormer with; its OperA has 1e-5.
    """

    name: Literal["transformer"] = "transformer"
    causal: bool = True
    layers: int = Field(default=11, ge=1, description="transformer blocks")
    heads: int = Field(default=1, ge=1, description="attention heads; `width` is a multiple of it")
    width: int = Field(default=64, ge=2, multiple_of=2, description="dimensions, an even number")
    feed_forward: int = Field(default=256, ge=1, description="hidden dimensions of the feed-forward network")
    window: int | None = Field(
        default=None,
        ge=1,
        description="frames that a frame sees, itself among them (online: those before it; offline: centred, an odd "
        "number); null: all, and then the work, not the memory, grows with the square of the length",
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of the units dropped, 0 to below 1")

    recipe: ClassVar[HeadRecipe] = HeadRecipe("adamw", lr=7e-4, epochs=150, weight_decay=1e-4, clip=1.0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        if not self.causal and self.window is not None and self.window % 2 == 0:
            raise ValueError(f"window = {self.window} has no centre: use an odd number, or causal: true")
        return self

    @override
    def build(self, dimensions: int, classes: int, kind: Kind) -> Head:
        return Transformer(self, dimensions, classes)


class Transformer(Head):
    """Linear to `width`, positions, `layers` blocks, normalisation, linear to the classes."""

    def __init__(self, config: TransformerConfig, dimensions: int, classes: int) -> None:
        super().__init__(config.causal)
        self.embed = nn.Linear(dimensions, config.width)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))
        self.out = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, classes))

    @override
    def stages(self, x: Tensor) -> list[Tensor]:
        embedded = self.embed(x[0].T)
        logits: Tensor = self.out(self.blocks(embedded + sinusoids(*embedded.shape).to(embedded)))
        return [logits.T.unsqueeze(0)]


class Block(nn.Module):
    """Pre-norm attention and feed-forward, [T, C] -> [T, C].

    Not `nn.TransformerEncoderLayer`: that wants a T x T mask, knows no window, and drops attention weights,
    for which torch keeps the T x T matrix.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.causal, self.window = config.heads, config.causal, config.window
        width = config.width
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, config.feed_forward), nn.GELU(), nn.Linear(config.feed_forward, width)
        )
        self.dropout = nn.Dropout(config.dropout)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self._attend(self.attention_norm(x)))
        result: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return result

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        if self.window is None:
            # torch's kernels for long sequences want a batch dimension.
            seen = F.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=self.causal)[0]
        else:
            before = self.window - 1 if self.causal else self.window // 2
            seen = window_attention(query, key, value, before, self.window - 1 - before)
        mixed: Tensor = self.mix(seen.transpose(0, 1).flatten(1))
        return mixed


def sinusoids(frames: int, width: int) -> Tensor:
    """float32 [frames, width]: sin and cos of t / 10000^(2i / width), Vaswani et al., arXiv:1706.03762,
    section 3.5.
    """
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(frames)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
