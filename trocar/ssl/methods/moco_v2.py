"""MoCo v2 (Chen et al., "Improved baselines with momentum contrastive learning", arXiv 2003.04297)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.data.views.recipe import Interpolation, Jitter, Probability, ViewGroup, ViewRecipe
from trocar.ssl.blocks.heads import MlpHead, unit
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.blocks.teachers import start_teacher, update_teacher
from trocar.ssl.engine.method import METHODS, Losses, Method, MethodConfig, Progress, Views
from trocar.ssl.losses import info_nce
from trocar.ssl.ranks.batch_norm import ShuffledBatch
from trocar.ssl.ranks.distributed import gather_detached, push
from trocar.ssl.run import auto_values
from trocar.ssl.run.auto_values import Advice, Auto, DataSize, known


class MocoViews(ViewGroup):
    """Two views, query and key; crops are resized bilinearly, as torchvision does unless told otherwise."""

    count: Literal[2] = 2
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.2, 1.0)
    interpolation: Interpolation = "bilinear"
    jitter: Jitter = Jitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    blur: Probability = 0.5


@METHODS.register
class MocoV2Config(MethodConfig):
    """Defaults are those of the reference code's command for v2 (`--mlp --moco-t 0.2 --aug-plus`), ResNet-50.

    Keys of the query's own frame are no negatives; there they are.
    """

    name: Literal["moco_v2"] = "moco_v2"
    views: MocoViews = Field(default=MocoViews(), description="the views of a sample")
    head: MlpHead = Field(default=MlpHead(), description="the projection head")
    temperature: float = Field(default=0.2, gt=0, description="temperature of the softmax over similarities")
    momentum: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        default=0.999, description="momentum of the key encoder, 0 to 1; auto: what suits the data"
    )
    queue: Annotated[int, Field(ge=1)] | Auto = Field(
        default=65536, description="K, the number of negatives; auto: what suits the data"
    )
    shuffle_bn: bool = Field(
        default=True, description="keys are computed on another rank than their queries: batch statistics tell nothing"
    )

    @override
    def recipe(self) -> ViewRecipe:
        return ViewRecipe(groups={"global": self.views})

    @override
    def build(self, networks: Networks) -> Method:
        return MocoV2(self, networks)

    @override
    def advice(self, data: DataSize) -> list[Advice]:
        return [
            auto_values.queue("queue", self.queue, data),
            auto_values.momentum("momentum", self.momentum, data, published=0.999),
        ]


class MocoV2(Method):
    """Queries against the keys of a slowly moving encoder, and a queue of earlier keys as negatives."""

    queue: Tensor
    queue_rows: Tensor
    pushed: Tensor

    def __init__(self, config: MocoV2Config, networks: Networks) -> None:
        super().__init__()
        self.config, self.seed = config, networks.seed
        self.student, self.student_head = networks.student(), config.head.build(networks.width)
        self.teacher, self.teacher_head = networks.teacher(), config.head.build(networks.width)
        start_teacher(self.teacher, self.student)
        start_teacher(self.teacher_head, self.student_head)
        length = known(config.queue)
        self.register_buffer("queue", unit(torch.randn(length, config.head.layers[-1])))
        # The catalog row of each key; -1 for the random ones that a queue begins with.
        self.register_buffer("queue_rows", torch.full((length,), -1))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))
        self._keys: list[tuple[Tensor, Tensor]] = []

    @override
    def loss(self, views: Views, progress: Progress) -> Losses:
        query = unit(self.student_head(self.student(views["global"][:, 0])))
        with torch.no_grad():
            key = self._key(views["global"][:, 1], progress)
        self._keys.append((key, views.rows))
        same_frame = views.rows[:, None] == self.queue_rows[None]
        return {"loss": info_nce(query, key, self.queue, same_frame, self.config.temperature)}

    @override
    def after_step(self, progress: Progress) -> dict[str, float]:
        momentum = known(self.config.momentum)
        update_teacher(self.teacher, self.student, momentum)
        update_teacher(self.teacher_head, self.student_head, momentum)
        keys, rows = (gather_detached(torch.cat(parts)) for parts in zip(*self._keys, strict=True))
        push([self.queue, self.queue_rows], self.pushed, [keys, rows])
        self.forget()
        return {}

    @override
    def forget(self) -> None:
        self._keys.clear()

    @property
    @override
    def backbones(self) -> list[nn.Module]:
        return [self.student, self.teacher]

    @property
    @override
    def average(self) -> nn.Module:
        return self.teacher

    def _key(self, x: Tensor, progress: Progress) -> Tensor:
        if not self.config.shuffle_bn:
            return unit(self.teacher_head(self.teacher(x)))
        batch = ShuffledBatch.of(x, self.seed, progress.step)
        return batch.restored(unit(self.teacher_head(self.teacher(batch.shuffled))))
