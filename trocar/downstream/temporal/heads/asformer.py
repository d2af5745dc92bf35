"""ASFormer: dilated convolutions with attention in windows of the same size, an encoder and refining
decoders.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.downstream.labels import Kind
from trocar.downstream.temporal.head import (
    HEADS,
    DilatedConvolution,
    Head,
    HeadConfig,
    HeadRecipe,
    probabilities,
    window_attention,
)


@HEADS.register
class AsFormerConfig(HeadConfig):
    """ASFormer (Yi et al., BMVC 2021, arXiv:2110.08568), offline; defaults of its repository: encoder and 3
    decoders of 10 layers, 64 maps, windows 2^i, queries, keys and values at half width, 30 % of the
    feature dimensions dropped per case, Adam 5e-4 with weight decay 1e-5, 120 epochs.

    Two differences. Every frame has its own window: the reference code gives all frames of a block the union
    of theirs. Frames outside the case take no part in the softmax: there they keep a weight of 1e-6. And the
    reference lowers the learning rate on plateaus of the training loss; it is constant here. No online
    variant: the normalisation over time alone sees the whole case.
    """

    name: Literal["asformer"] = "asformer"
    causal: Literal[False] = False
    decoders: int = Field(default=3, ge=0, description="refining decoders behind the encoder")
    layers: int = Field(
        default=10,
        ge=1,
        le=14,
        description="layers of the encoder and of each decoder, 1 to 14; layer i looks at 2^i frames",
    )
    maps: int = Field(default=64, ge=2, multiple_of=2, description="feature maps, an even number")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="share of the maps dropped, 0 to below 1")

    recipe: ClassVar[HeadRecipe] = HeadRecipe("adam", lr=5e-4, epochs=120, weight_decay=1e-5, feature_dropout=0.3)

    @override
    def build(self, dimensions: int, classes: int, kind: Kind) -> Head:
        return AsFormer(self, dimensions, classes, kind)


class AsFormer(Head):
    """The attention of decoder s is weighted by exp(-3 s), s = 0, 1, ...: later decoders mostly smooth."""

    def __init__(self, config: AsFormerConfig, dimensions: int, classes: int, kind: Kind) -> None:
        super().__init__(config.causal)
        self.kind: Kind = kind
        self.encoder = Coder(config, dimensions, classes, weight=1.0)
        self.decoders = nn.ModuleList(
            Coder(config, classes, classes, weight=math.exp(-3 * s)) for s in range(config.decoders)
        )

    @override
    def stages(self, x: Tensor) -> list[Tensor]:
        logits, maps = self.encoder(x, None)
        found = [logits]
        for decoder in self.decoders:
            logits, maps = decoder(probabilities(found[-1], self.kind, dim=1), maps)
            found.append(logits)
        return found


class Coder(nn.Module):
    """Encoder or decoder: [1, D, T] -> logits [1, K, T] and maps [1, C, T]. A decoder's attention takes its
    values from the maps of the coder before it.
    """

    def __init__(self, config: AsFormerConfig, inputs: int, classes: int, weight: float) -> None:
        super().__init__()
        self.embed = nn.Conv1d(inputs, config.maps, 1)
        self.layers = nn.ModuleList(
            AsFormerLayer(config.maps, 2**i, config.dropout, weight) for i in range(config.layers)
        )
        self.out = nn.Conv1d(config.maps, classes, 1)

    @override
    def forward(self, x: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = self.embed(x)
        for layer in self.layers:
            maps = layer(maps, previous)
        return self.out(maps), maps


class AsFormerLayer(nn.Module):
    """Dilated convolution, attention in a window as wide as the dilation, 1x1, dropout, residual."""

    def __init__(self, maps: int, window: int, dropout: float, weight: float) -> None:
        super().__init__()
        self.before, self.after = window // 2, window - window // 2 - 1
        self.weight = weight
        self.dilated = DilatedConvolution(maps, 3, window, causal=False)
        self.query, self.key, self.value = (nn.Conv1d(maps, maps // 2, 1) for _ in range(3))
        self.attended = nn.Conv1d(maps // 2, maps, 1)
        self.mix = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, x: Tensor, previous: Tensor | None) -> Tensor:
        local = torch.relu(self.dilated(x))
        near: Tensor = self.dropout(self.mix(self.weight * self._attend(local, previous) + local))
        return x + near

    def _attend(self, local: Tensor, previous: Tensor | None) -> Tensor:
        # The instance norm of [1, C, T], written as a layer norm over time: torch's own refuses a case of one frame.
        normal = F.layer_norm(local, local.shape[-1:])
        source = normal if previous is None else previous
        query, key, value = (
            part.transpose(1, 2) for part in (self.query(normal), self.key(normal), self.value(source))
        )
        seen = window_attention(query, key, value, self.before, self.after)
        result: Tensor = self.attended(torch.relu(seen.transpose(1, 2)))
        return result
