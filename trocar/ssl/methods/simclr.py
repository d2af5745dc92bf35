"""SimCLR (Chen et al., "A simple framework for contrastive learning of visual representations", arXiv 2002.05709)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn
from typing_extensions import override

from trocar.data.views.recipe import Jitter, Probability, ViewGroup, ViewRecipe
from trocar.ssl.blocks.heads import MlpHead, unit
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.engine.method import METHODS, Losses, Method, MethodConfig, Progress, Views, by_view
from trocar.ssl.losses import nt_xent


class SimclrViews(ViewGroup):
    """Two views with strong colour jitter (appendix A; strength 1)."""

    count: Literal[2] = 2
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.08, 1.0)
    jitter: Jitter = Jitter(p=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    blur: Probability = 0.5


@METHODS.register
class SimclrConfig(MethodConfig):
    """Defaults are those of the paper for ResNet-50.

    The paper is silent on batch norm in the head; its reference code has it behind both layers, with a trained scale
    behind the second too. Crops are antialiased, which they aren't in that code; equal frames are no negatives.
    """

    name: Literal["simclr"] = "simclr"
    views: SimclrViews = Field(default=SimclrViews(), description="the views of a sample")
    head: MlpHead = Field(default=MlpHead(batch_norm=True, last_batch_norm=True), description="the projection head")
    temperature: float = Field(default=0.1, gt=0, description="temperature of the softmax over similarities")

    @override
    def recipe(self) -> ViewRecipe:
        return ViewRecipe(groups={"global": self.views})

    @override
    def build(self, networks: Networks) -> Method:
        return Simclr(self, networks)


class Simclr(Method):
    """One network; two views of a frame are to be nearer to each other than to all other views of the global batch."""

    def __init__(self, config: SimclrConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.student, self.head = networks.student(), config.head.build(networks.width)

    @override
    def loss(self, views: Views, progress: Progress) -> Losses:
        embedded = unit(by_view(self.student, [views["global"]], self.head))
        loss, accuracy = nt_xent(embedded[0], embedded[1], views.rows, self.config.temperature)
        return {"loss": loss, "pair_accuracy": accuracy}

    @override
    def after_step(self, progress: Progress) -> dict[str, float]:
        return {}

    @property
    @override
    def backbones(self) -> list[nn.Module]:
        return [self.student]
