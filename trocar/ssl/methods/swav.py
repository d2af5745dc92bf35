"""SwAV (Caron et al., "Unsupervised learning of visual features by contrasting cluster assignments", 2006.09882)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.core.config import Config
from trocar.data.views.recipe import Interpolation, Jitter, ViewGroup, ViewRecipe
from trocar.ssl.blocks.heads import MlpHead, unit
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.engine.method import METHODS, Losses, Method, MethodConfig, Progress, Views, by_view, freeze_gradients
from trocar.ssl.engine.optimizer import Duration, steps_in
from trocar.ssl.losses import codes, entropy, prototypes_used, swapped_prediction
from trocar.ssl.ranks.distributed import gather_detached, own_share, push
from trocar.ssl.ranks.parts import own_part
from trocar.ssl.run import auto_values
from trocar.ssl.run.auto_values import Advice, Auto, DataSize, known

STRONG = Jitter(p=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)


class SwavGlobalViews(ViewGroup):
    """The two views that get codes; what is not said keeps the published value."""

    count: Literal[2] = 2
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.14, 1.0)
    interpolation: Interpolation = "bilinear"
    jitter: Jitter = STRONG


class SwavLocalViews(ViewGroup):
    """Small views, which only predict; what is not said keeps the published value."""

    count: int = Field(default=6, ge=1)
    size: int = Field(default=96, ge=8)
    scale: tuple[float, float] = (0.05, 0.14)
    interpolation: Interpolation = "bilinear"
    jitter: Jitter = STRONG


class SwavViews(Config):
    """SwAV's multi-crop; `local: null` leaves the two global views."""

    global_: SwavGlobalViews = Field(
        default=SwavGlobalViews(), alias="global", description="the two views that get codes"
    )
    local: SwavLocalViews | None = Field(
        default=SwavLocalViews(), description="small views, which only predict; null: none"
    )


@METHODS.register
class SwavConfig(MethodConfig):
    """Defaults are those of the reference code for ResNet-50 with a batch of 256, the recipe with a queue.

    Prototypes are frozen for 313 steps of a batch of 4096 there, or 5005 of 256: one epoch of ImageNet either way.
    Views are normalised as the backbone wants it; there with a deviation of .228 for red.
    """

    name: Literal["swav"] = "swav"
    views: SwavViews = Field(default=SwavViews(), description="the views of a sample")
    head: MlpHead = Field(default=MlpHead(batch_norm=True), description="the projection head")
    prototypes: Annotated[int, Field(ge=2)] | Auto = Field(
        default=3000, description="K, the number of clusters; auto: what suits the data"
    )
    temperature: float = Field(default=0.1, gt=0, description="temperature of the predictions' softmax")
    epsilon: float = Field(default=0.05, ge=0.02, description="temperature of Sinkhorn-Knopp, at least 0.02")
    iterations: int = Field(default=3, ge=1, description="iterations of Sinkhorn-Knopp")
    queue: Annotated[int, Field(ge=0)] | Auto = Field(
        default=3840,
        description="earlier samples that take part in the balance; divides by the number of ranks; 0: no queue; "
        "auto: what suits the data",
    )
    queue_start: Duration = Field(
        default="15 epochs", description="the queue is filled from here on, and used when full"
    )
    freeze_prototypes: Duration = Field(
        default="1 epoch",
        description="how long the prototypes stay as they are, such as `1 epoch`, `500 steps` or `10 %`",
    )

    @override
    def recipe(self) -> ViewRecipe:
        local = {"local": self.views.local} if self.views.local is not None else {}
        return ViewRecipe(groups={"global": self.views.global_, **local})

    @override
    def build(self, networks: Networks) -> Method:
        return Swav(self, networks)

    @override
    def advice(self, data: DataSize) -> list[Advice]:
        frozen = steps_in(self.freeze_prototypes, data.epoch_steps, data.total)
        return [
            auto_values.prototypes("prototypes", self.prototypes, data, most=3000),
            auto_values.queue("queue", self.queue, data, most=3840),
            auto_values.at_first("freeze_prototypes", self.freeze_prototypes, frozen, data),
        ]


class Swav(Method):
    """One network; each view predicts the clusters (codes) of the other views of its frame.

    The queue holds the embeddings of both global views, in the order of the global batch. As in the reference code it
    is filled from `queue_start` on and takes part in the codes once it is full.
    """

    queue: Tensor
    pushed: Tensor

    def __init__(self, config: SwavConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.student, self.head = networks.student(), config.head.build(networks.width)
        width, length = config.head.layers[-1], known(config.queue)
        self.prototypes = nn.Linear(width, known(config.prototypes), bias=False)
        self._normalise_prototypes()
        self.register_buffer("queue", torch.zeros(length, 2, width))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))
        own_share(self.queue)  # refuses a length that does not divide now, not when the queue begins
        self._embedded: list[Tensor] = []

    @override
    def loss(self, views: Views, progress: Progress) -> Losses:
        features = by_view(self.student, views.crops.values())
        # As in the reference code, the head sees views of all sizes as one batch.
        embedded = unit(self.head(features.flatten(0, 1))).view(*features.shape[:2], -1)
        scores = self._scores(embedded)
        targets = self._codes(scores[:2].detach(), progress)
        self._embedded.append(embedded[:2].detach().transpose(0, 1))
        return {
            "loss": swapped_prediction(scores, targets, self.config.temperature),
            "code_entropy": entropy(targets),
            "prototypes_used": prototypes_used(targets),
        }

    @override
    def after_step(self, progress: Progress) -> dict[str, float]:
        self._normalise_prototypes()
        if self._queue_runs(progress):
            push([self.queue], self.pushed, [gather_detached(torch.cat(self._embedded))])
        self.forget()
        return {}

    @override
    def forget(self) -> None:
        self._embedded.clear()

    def gradients_ready(self, progress: Progress) -> None:
        """The prototypes don't move at first."""
        if progress.step < steps_in(self.config.freeze_prototypes, progress.epoch_steps, progress.total):
            freeze_gradients(self.prototypes)

    @property
    @override
    def backbones(self) -> list[nn.Module]:
        return [self.student]

    @override
    def reference_loss(self) -> float:
        return math.log(known(self.config.prototypes))

    def _scores(self, embedded: Tensor) -> Tensor:
        """Cosines of unit embeddings [..., D] with the prototypes, [..., K], in float32."""
        with torch.autocast(embedded.device.type, enabled=False):
            return embedded @ self.prototypes.weight.T

    @torch.no_grad()
    def _codes(self, scores: Tensor, progress: Progress) -> Tensor:
        config = self.config
        alone = codes(scores, None, config.epsilon, config.iterations)
        if not self._queue_runs(progress):
            return alone
        queued = self._scores(own_share(self.queue).transpose(0, 1))
        # Both are computed: whether the queue is full is known on the device alone.
        return torch.where(
            self.pushed >= len(self.queue), codes(scores, queued, config.epsilon, config.iterations), alone
        )

    def _queue_runs(self, progress: Progress) -> bool:
        start = steps_in(self.config.queue_start, progress.epoch_steps, progress.total)
        return len(self.queue) > 0 and progress.step >= start

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        """Unit rows. The reference code does so before each forward pass, which is after each step and at the start."""
        rows = own_part(self.prototypes.weight)
        rows.copy_(unit(rows))
