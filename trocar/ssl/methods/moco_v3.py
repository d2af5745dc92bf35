"""MoCo v3 (Chen et al., "An empirical study of training self-supervised vision transformers", arXiv 2104.02057)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.data.views.recipe import Interpolation, Probability, ViewGroup, ViewRecipe
from trocar.ssl.blocks.heads import MlpHead, unit
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.blocks.teachers import start_teacher, update_teacher
from trocar.ssl.engine.method import METHODS, Losses, Method, MethodConfig, Progress, Views
from trocar.ssl.engine.optimizer import cosine
from trocar.ssl.losses import batch_contrast
from trocar.ssl.run import auto_values
from trocar.ssl.run.auto_values import Advice, Auto, DataSize, known


class MocoV3Views(ViewGroup):
    """Two views with BYOL's asymmetric blur and solarization; what is not said keeps the published value."""

    count: Literal[2] = 2
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = Field(
        default=(0.2, 1.0),
        description="share of the frame's area that a crop covers; published: 0.2 to 1 for ResNet-50, 0.08 to 1 for "
        "ViT",
    )
    interpolation: Interpolation = "bilinear"
    blur: Probability = [1.0, 0.1]
    solarize: Probability = [0.0, 0.2]


@METHODS.register
class MocoV3Config(MethodConfig):
    """Defaults are those of the reference code for ResNet-50.

    For ViT the published ones are `temperature: 0.2`, `views.scale: [0.08, 1]`, a head of three layers,
    `head.layers: [4096, 4096, 256]` with `head.relu: 2`, and `predictor.last_batch_norm: true`.

    Differences: a ViT learns its positions and starts from timm's weights, where the published one has fixed sines and
    weights of its own; a predictor that doesn't end in a batch norm ends in a bias; the key encoder moves after a step
    and not before the next one's keys, so its momentum is that of one step earlier; equal frames are no negatives.
    """

    name: Literal["moco_v3"] = "moco_v3"
    views: MocoV3Views = Field(default=MocoV3Views(), description="the views of a sample")
    head: MlpHead = Field(
        default=MlpHead(layers=(4096, 256), batch_norm=True, last_batch_norm=True), description="the projection head"
    )
    predictor: MlpHead = Field(
        default=MlpHead(layers=(4096, 256), batch_norm=True), description="the predictor behind the query's head"
    )
    temperature: float = Field(default=1.0, gt=0, description="temperature of the softmax over similarities")
    momentum: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        default=0.99,
        description="momentum of the key encoder at the start, 0 to 1; it is 1 at the end; auto: what suits the data",
    )
    freeze_patch_embed: bool = Field(
        default=True,
        description="keep the patch projection of a vision transformer as it starts; other backbones train whole",
    )

    @override
    def recipe(self) -> ViewRecipe:
        return ViewRecipe(groups={"global": self.views})

    @override
    def build(self, networks: Networks) -> Method:
        return MocoV3(self, networks)

    @override
    def advice(self, data: DataSize) -> list[Advice]:
        return [auto_values.momentum("momentum", self.momentum, data, published=0.99)]


class MocoV3(Method):
    """Queries of a network with a predictor against keys of its moving average, each of the other view; no queue."""

    def __init__(self, config: MocoV3Config, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.student, self.student_head = networks.student(), config.head.build(networks.width)
        self.teacher, self.teacher_head = networks.teacher(), config.head.build(networks.width)
        self.predictor = config.predictor.build(config.head.layers[-1])
        start_teacher(self.teacher, self.student)
        start_teacher(self.teacher_head, self.student_head)
        if config.freeze_patch_embed:
            freeze_patch_projection(self.student)

    @override
    def loss(self, views: Views, progress: Progress) -> Losses:
        # One pass per view, as published: batch norm sees views of one augmentation at a time.
        first, second = views["global"].unbind(1)
        queries = [self._query(x) for x in (first, second)]
        keys = [self._key(x) for x in (second, first)]
        pairs = zip(queries, keys, strict=True)
        losses = [batch_contrast(query, key, views.rows, self.config.temperature) for query, key in pairs]
        return {"loss": losses[0] + losses[1]}

    @override
    def after_step(self, progress: Progress) -> dict[str, float]:
        momentum = cosine(progress.step, known(self.config.momentum), 1.0, progress.total)
        update_teacher(self.teacher, self.student, momentum)
        update_teacher(self.teacher_head, self.student_head, momentum)
        return {"momentum": momentum}

    @property
    @override
    def backbones(self) -> list[nn.Module]:
        return [self.student, self.teacher]

    @property
    @override
    def average(self) -> nn.Module:
        return self.teacher

    def _query(self, x: Tensor) -> Tensor:
        return unit(self.predictor(self.student_head(self.student(x))))

    @torch.no_grad()
    def _key(self, x: Tensor) -> Tensor:
        return unit(self.teacher_head(self.teacher(x)))


def freeze_patch_projection(backbone: nn.Module) -> None:
    """Section 4.3: a fixed random patch projection keeps a vision transformer stable.

    Does nothing to a backbone without a `patch_embed.proj`, such as a ResNet or ConvNeXt.
    """
    projection = dict(backbone.named_modules()).get("patch_embed.proj")
    if projection is not None:
        projection.requires_grad_(False)
