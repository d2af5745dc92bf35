"""A recurrent network over the whole case."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.downstream.labels import Kind
from trocar.downstream.temporal.head import HEADS, Head, HeadConfig, HeadRecipe


@HEADS.register
class GruConfig(HeadConfig):
    """GRU whose state runs through the case from its first frame, unlike the LSTM of SV-RCNet (Jin et al., TMI 2018),
    which sees clips of 3 frames, and those of TMRNet (10) and SurgPhaseBench (8).

    One layer of 512 units, as in all three, and a dropout of 0.5, as in SV-RCNet. Ours is the GRU on cached features:
    Adam 5e-4, 25 epochs and clipping at 1 are those of SurgPhaseBench's end-to-end LSTM, which has a weight decay of
    1e-4 and a learning rate that falls to a tenth every 10 epochs besides. `causal: false` is a bidirectional GRU.
    """

    name: Literal["gru"] = "gru"
    causal: bool = True
    hidden: int = Field(default=512, ge=1, description="units of each layer and direction")
    layers: int = Field(default=1, ge=1, le=4, description="recurrent layers, 1 to 4")
    dropout: float = Field(
        default=0.5, ge=0, lt=1, description="share of the units dropped after every layer, 0 to below 1"
    )

    recipe: ClassVar[HeadRecipe] = HeadRecipe("adam", lr=5e-4, epochs=25, clip=1.0)

    @override
    def build(self, dimensions: int, classes: int, kind: Kind) -> Head:
        return Gru(self, dimensions, classes)


class Gru(Head):
    """Dropout after every layer, then a linear map to the classes."""

    def __init__(self, config: GruConfig, dimensions: int, classes: int) -> None:
        super().__init__(config.causal)
        both = not config.causal
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(dimensions, config.hidden, config.layers, dropout=between, bidirectional=both)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.hidden * (1 + both), classes)

    @override
    def stages(self, x: Tensor) -> list[Tensor]:
        states, _ = self.gru(x[0].T)
        logits: Tensor = self.out(self.dropout(states))
        return [logits.T.unsqueeze(0)]
