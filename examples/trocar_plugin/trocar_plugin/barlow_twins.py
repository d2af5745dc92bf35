"""A method: Barlow Twins (Zbontar et al., "Self-supervised learning via redundancy reduction", arXiv 2103.03230)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trocar import register_method
from trocar.data.views.recipe import Probability, ViewGroup, ViewRecipe
from trocar.ssl.blocks.heads import MlpHead
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.engine.method import Losses, Method, MethodConfig, Progress, Views
from trocar.ssl.ranks.distributed import gather


class BarlowTwinsViews(ViewGroup):
    """Two views of a frame."""

    count: Literal[2] = 2
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.08, 1.0)
    blur: Probability = [1.0, 0.1]
    solarize: Probability = [0.0, 0.2]


@register_method
class BarlowTwinsConfig(MethodConfig):
    """Defaults are those of the paper for ResNet-50."""

    name: Literal["barlow_twins"] = "barlow_twins"
    views: BarlowTwinsViews = BarlowTwinsViews()
    head: MlpHead = MlpHead(layers=(8192, 8192, 8192), relu=2, batch_norm=True)
    redundancy: float = Field(default=0.0051, ge=0, description="weight of what is off the diagonal")

    def recipe(self) -> ViewRecipe:
        """Two views of one size."""
        return ViewRecipe(groups={"global": self.views})

    def build(self, networks: Networks) -> Method:
        """One network and its head."""
        return BarlowTwins(self, networks)


class BarlowTwins(Method):
    """The embeddings of two views agree in each dimension, and no two dimensions say the same."""

    def __init__(self, config: BarlowTwinsConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.student, self.head = networks.student(), config.head.build(networks.width)

    def loss(self, views: Views, progress: Progress) -> Losses:
        """The loss of algorithm 1, over the global batch."""
        first, second = (self.head(self.student(view)) for view in views["global"].unbind(1))
        return {"loss": cross_correlation_loss(first, second, self.config.redundancy)}

    def after_step(self, progress: Progress) -> dict[str, float]:
        """Nothing follows a step: there is no teacher and no queue."""
        return {}

    @property
    def backbones(self) -> list[nn.Module]:
        """The one network."""
        return [self.student]


def cross_correlation_loss(first: Tensor, second: Tensor, redundancy: float) -> Tensor:
    """Two views' embeddings [b, D] of this rank -> scalar, of all ranks' frames together."""
    with torch.autocast(first.device.type, enabled=False):
        x, y = (gather(view.float()) for view in (first, second))
        x, y = ((view - view.mean(0)) / (view.std(0, correction=0) + 1e-5) for view in (x, y))
        correlation = x.T @ y / len(x)
        same = torch.diagonal(correlation)
        other = correlation.square().sum() - same.square().sum()
        return (1 - same).square().sum() + redundancy * other
