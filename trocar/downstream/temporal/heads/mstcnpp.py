"""MS-TCN++: a first stage whose layers look near and far at once, then refinement stages as in MS-TCN."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.downstream.labels import Kind
from trocar.downstream.temporal.head import HEADS, Head, HeadConfig, HeadRecipe, probabilities
from trocar.downstream.temporal.layers import DilatedConvolution, DilatedStage


@HEADS.register
class MsTcnPpConfig(HeadConfig):
    """MS-TCN++ (Li et al., arXiv:2006.09220); defaults of its repository: 11 dual dilated layers, then 3
    refinement stages of 10 layers, 64 maps, Adam 5e-4, up to 100 epochs.

    Published as an offline head; `causal: true` pads on the left alone.
    """

    name: Literal["mstcn++"] = "mstcn++"
    causal: bool = False
    layers: int = Field(default=11, ge=1, le=14, description="dual dilated layers of the first stage, 1 to 14")
    refinements: int = Field(default=3, ge=0, description="refinement stages")
    refinement_layers: int = Field(default=10, ge=1, le=14, description="layers of each refinement stage, 1 to 14")
    maps: int = Field(default=64, ge=1, description="feature maps")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="share of the maps dropped, 0 to below 1")

    recipe: ClassVar[HeadRecipe] = HeadRecipe("adam", lr=5e-4, epochs=100)

    @override
    def build(self, dimensions: int, classes: int, kind: Kind) -> Head:
        return MsTcnPp(self, dimensions, classes, kind)


class DualDilated(nn.Module):
    """x + dropout(relu(1x1(two convolutions with dilations `near` and `far`, side by side)))."""

    def __init__(self, maps: int, near: int, far: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.near = DilatedConvolution(maps, 3, near, causal)
        self.far = DilatedConvolution(maps, 3, far, causal)
        self.fuse = nn.Conv1d(2 * maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.near(x), self.far(x)], dim=1)
        residual: Tensor = self.dropout(torch.relu(self.fuse(both)))
        return x + residual


class MsTcnPp(Head):
    """Layer i of the first stage has dilations 2^i and 2^(layers - 1 - i)."""

    def __init__(self, config: MsTcnPpConfig, dimensions: int, classes: int, kind: Kind) -> None:
        super().__init__(config.causal)
        self.kind: Kind = kind
        maps, last = config.maps, config.layers - 1
        dual = [DualDilated(maps, 2**i, 2 ** (last - i), config.causal, config.dropout) for i in range(config.layers)]
        self.first = nn.Sequential(nn.Conv1d(dimensions, maps, 1), *dual, nn.Conv1d(maps, classes, 1))
        self.refine = nn.ModuleList(
            DilatedStage(
                classes,
                classes,
                layers=config.refinement_layers,
                maps=maps,
                kernel=3,
                causal=config.causal,
                dropout=config.dropout,
            )
            for _ in range(config.refinements)
        )

    @override
    def stages(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = [self.first(x)]
        for stage in self.refine:
            found.append(stage(probabilities(found[-1], self.kind, dim=1)))
        return found
