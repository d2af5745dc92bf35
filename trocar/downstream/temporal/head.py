"""What a temporal head is: features of one case in, one set of logits per stage out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from trocar.core.config import Config
from trocar.core.registry import ByName, Registry
from trocar.downstream.labels import Kind
from trocar.errors import TrocarError

Optimiser = Literal["adam", "adamw"]


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained. `weight_decay` is L2 in the gradient for adam, decoupled for adamw.

    `feature_dropout` is the share of feature dimensions set to zero over a whole case; `clip` the largest
    norm of the gradient, 0 for none.
    """

    optimiser: Optimiser
    lr: float
    epochs: int
    weight_decay: float = 0.0
    feature_dropout: float = 0.0
    clip: float = 0.0


class HeadConfig(Config, ABC):
    """Base of the settings of all heads. A subclass has `name: Literal["..."]`.

    `recipe`: how the source of the defaults trains the head.
    """

    name: str = Field(description="the name by which a file asks for it")
    causal: bool = Field(
        description="true: a frame's prediction uses this frame and earlier ones alone (online); false: later ones "
        "too (offline)",
    )
    recipe: ClassVar[HeadRecipe]

    @abstractmethod
    def build(self, dimensions: int, classes: int, kind: Kind) -> Head:
        """The head for features [T, dimensions], with fresh weights from torch's generator."""


HEADS: Registry[type[HeadConfig]] = Registry(
    "heads",
    "temporal head",
    package="trocar.downstream.temporal.heads",
    accepts=lambda thing: isinstance(thing, type) and issubclass(thing, HeadConfig),
    expected="a subclass of HeadConfig whose `name` has a default",
)
"""The configuration class of every temporal head, by the name that a file asks for it with."""

AnyHead = Annotated[SerializeAsAny[HeadConfig], ByName(HEADS)]
"""The type of a field that holds the configuration of any temporal head."""


class Head(nn.Module, ABC):
    """Base of all heads. `causal` is True for online heads: output t does not depend on frames after t."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    @abstractmethod
    def stages(self, x: Tensor) -> list[Tensor]:
        """float32 [1, D, T] -> logits [1, K, T] of every stage, the last one is the prediction."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """One case, float32 [1, D, T] or [T, D] -> logits [T, K] of every stage. Raises TrocarError for other
        shapes.
        """
        if x.ndim == 2:
            x = x.T.unsqueeze(0)
        if x.ndim != 3 or x.shape[0] != 1 or x.shape[2] < 1:
            raise TrocarError(f"a temporal head takes one case [1, D, T] or [T, D], not {list(x.shape)}")
        return [logits[0].T for logits in self.stages(x)]


def probabilities(logits: Tensor, kind: Kind, dim: int) -> Tensor:
    """Softmax over `dim` for one label a frame, a sigmoid per class for several."""
    return logits.softmax(dim) if kind == "multiclass" else torch.sigmoid(logits)
