"""MS-TCN, and with `causal` TeCNO: stages of dilated convolutions, each refining the prediction of the one before.

MS-TCN++: a first stage whose layers look near and far at once, then refinement stages as in MS-TCN.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import override

from trocar.downstream.labels import Kind
from trocar.downstream.temporal.head import (
    HEADS,
    DilatedConvolution,
    DilatedStage,
    Head,
    HeadConfig,
    HeadRecipe,
    probabilities,
)


@HEADS.register
class MsTcnConfig(HeadConfig):
    """Causal MS-TCN (TeCNO, Czempiel et al., arXiv:2003.10751), the common denominator of online phase
    recognition.

    2 stages of 9 layers and 64 maps are those of SelfSupSurg and SurgPhaseBench; Adam 7e-4 and 100 epochs are
    SelfSupSurg's (SurgPhaseBench: AdamW 7e-4, weight decay 1e-4, at most 150 epochs). TeCNO's own repository is
    published with 2 stages, 8 layers, 32 maps and Adam 7e-5 for 12 to 16 epochs. MS-TCN (Abu Farha and Gall,
    arXiv:1903.01945) is `causal: false, stages: 4, layers: 10` with Adam 5e-4.
    """

    name: Literal["mstcn"] = "mstcn"
    causal: bool = True
    stages: int = Field(default=2, ge=1, description="stages, of which each refines the prediction before it")
    layers: int = Field(
        default=9, ge=1, le=14, description="dilated layers of each stage, 1 to 14; layer i has dilation 2^i"
    )
    maps: int = Field(default=64, ge=1, description="feature maps")
    kernel: int = Field(default=3, ge=2, description="taps of a dilated convolution, odd if not causal")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="share of the maps dropped, 0 to below 1")

    recipe: ClassVar[HeadRecipe] = HeadRecipe("adam", lr=7e-4, epochs=100)

    @model_validator(mode="after")
    def _centred_kernel_is_odd(self) -> Self:
        if not self.causal and self.kernel % 2 == 0:
            raise ValueError(f"kernel = {self.kernel} has no centre: use an odd number, or causal: true")
        return self

    @override
    def build(self, dimensions: int, classes: int, kind: Kind) -> Head:
        return MsTcn(self, dimensions, classes, kind)

    def receptive_field(self) -> int:
        """Frames that the prediction of one frame depends on: 1 + stages * (kernel - 1) * (2^layers - 1)."""
        return 1 + self.stages * (self.kernel - 1) * ((1 << self.layers) - 1)


class MsTcn(Head):
    """The first stage sees the features, each later one the probabilities of the one before it and nothing
    else.
    """

    def __init__(self, config: MsTcnConfig, dimensions: int, classes: int, kind: Kind) -> None:
        super().__init__(config.causal)
        self.kind: Kind = kind
        shape = config.model_dump(include={"layers", "maps", "kernel", "causal", "dropout"})
        inputs = [dimensions] + [classes] * (config.stages - 1)
        self.body = nn.ModuleList(DilatedStage(n, classes, **shape) for n in inputs)

    @override
    def stages(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for stage in self.body:
            found.append(stage(x))
            x = probabilities(found[-1], self.kind, dim=1)
        return found


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
