"""Distillation into a small backbone, without labels: of a frozen, larger teacher, and augmented by neighbour frames.

Of a frozen teacher. Features: AM-RADIO's cosine (Ranzinger et al., arXiv 2312.06709) or the smooth L1 to standardised
features of Wei et al. (arXiv 2205.14141), through a projector. Relations: RKD's distances and angles (Park et al.,
arXiv 1904.05068).

Augmented (LemonFM; Che et al., arXiv 2503.19740): DINO whose student also sees neighbour frames. The teacher sees the
two global views of the anchor and nothing else. With two neighbours the student sees 16 views, and the loss has 2 x 15
= 30 terms. Left out are LemonFM's pixel noise (standard deviation 1/255, next to nothing) and the stochastic depth of
its teacher.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import override

from trocar.core.config import Config
from trocar.data.selection.neighbours import NeighbourSource
from trocar.data.views.recipe import MAX_FRAME, Jitter, Probability, ViewGroup, ViewRecipe
from trocar.errors import ConfigError
from trocar.ssl.blocks.heads import mlp
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.blocks.teachers import FrozenConfig
from trocar.ssl.engine.method import METHODS, Losses, Method, MethodConfig, Progress, Views, by_view
from trocar.ssl.losses import (
    cosine_distance,
    in_groups,
    relational_angle,
    relational_distance,
    whitened_smooth_l1,
)
from trocar.ssl.methods.dino import DinoConfig, DinoGlobalViews, DinoLocalViews, DinoViews
from trocar.ssl.ranks.distributed import gather, gather_detached

FEATURE_LOSSES = {"cosine": cosine_distance, "smooth_l1": whitened_smooth_l1}
LEAST = 3  # samples that a triangle needs


class DistillationViews(ViewGroup):
    """Mild views: teacher and student see the same one, so it need not teach what to ignore."""

    count: int = Field(default=2, ge=1)
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.4, 1.0)
    blur: Probability = 0.0


class Weights(Config):
    """Of the losses in the sum. Distances and angles stand 1 to 2 as in RKD-DA for metric learning."""

    feature: float = Field(default=1.0, ge=0, description="of the loss between features")
    distance: float = Field(default=1.0, ge=0, description="of the loss between distances of pairs of samples")
    angle: float = Field(default=2.0, ge=0, description="of the loss between angles of triplets of samples")

    @model_validator(mode="after")
    def _something(self) -> Weights:
        if not (self.feature or self.distance or self.angle):
            raise ValueError("one of feature, distance and angle must be more than 0")
        return self


@METHODS.register
class DistillationConfig(MethodConfig):
    """The sum of three losses with the papers' defaults. No paper has just this sum: compare with `feature` alone."""

    name: Literal["distillation"] = "distillation"
    teacher: FrozenConfig = Field(description="the frozen teacher")
    views: DistillationViews = Field(default=DistillationViews(), description="the views of a sample")
    weights: Weights = Field(default=Weights(), description="weights of the losses in the sum")
    feature: Literal["cosine", "smooth_l1"] = Field(
        default="cosine", description="the loss between the features of student and teacher"
    )
    projector: tuple[int, ...] = Field(
        default=(), description="widths of hidden layers between the student's features and the teacher's; (): linear"
    )
    angle_group: int = Field(
        default=32, ge=LEAST, description="samples among which angles are taken; memory grows with it, time squared"
    )

    @override
    def recipe(self) -> ViewRecipe:
        return ViewRecipe(groups={"global": self.views})

    @override
    def build(self, networks: Networks) -> Method:
        return Distillation(self, networks)


class Distillation(Method):
    """The student's features of each view are to be the teacher's of the same view, alone and among each other."""

    def __init__(self, config: DistillationConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.student, self.teacher = networks.student(), config.teacher.build(networks)
        layers = (*config.projector, self.teacher.width)
        needed = config.weights.feature > 0
        self.projector = mlp(networks.width, layers, len(layers) - 1, False, False) if needed else None

    @override
    def loss(self, views: Views, progress: Progress) -> Losses:
        student, teacher = by_view(self.student, [views["global"]]), by_view(self.teacher, [views["global"]])
        terms: Losses = {}
        if self.projector is not None:
            compare = FEATURE_LOSSES[self.config.feature]
            terms["feature"] = compare(self.projector(student.flatten(0, 1)), teacher.flatten(0, 1))
        terms |= self._relations(student, teacher)
        weights = self.config.weights.model_dump()
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": total} | {f"{name}_loss": term for name, term in terms.items()}

    def _relations(self, student: Tensor, teacher: Tensor) -> Losses:
        """Among the frames of the global batch, for the first, second, ... view of each; every rank computes all.

        Of [V, b, D]. With gradient accumulation the batch is that of all ranks' micro-batches.
        """
        weights, terms = self.config.weights, Losses()
        if not (weights.distance or weights.angle):
            return terms
        ours = gather(student.float().transpose(0, 1)).transpose(0, 1)
        theirs = gather_detached(teacher.transpose(0, 1)).transpose(0, 1)
        if ours.shape[1] < LEAST:
            raise ConfigError(
                f"relations need {LEAST} frames, a (micro-)batch has {ours.shape[1]}: raise train.batch, lower "
                f"train.accumulate, or set method.weights.distance=0 method.weights.angle=0"
            )
        if weights.distance:
            terms["distance"] = relational_distance(ours, theirs)
        if weights.angle:
            # Groups of the global batch, so that they don't depend on the number of ranks.
            size = self.config.angle_group
            terms["angle"] = relational_angle(in_groups(ours, size), in_groups(theirs, size))
        return terms

    @override
    def after_step(self, progress: Progress) -> dict[str, float]:
        return {}

    @property
    @override
    def backbones(self) -> list[nn.Module]:
        return [self.student, self.teacher.network]

    @override
    def identity(self) -> dict[str, str]:
        return {"teacher": self.teacher.fingerprint}


NO_HUE = Jitter(hue=0.0)


class AnchorGlobal(DinoGlobalViews):
    """DINO's, without a jitter of the hue."""

    jitter: Jitter = NO_HUE


class AnchorLocal(DinoLocalViews):
    """DINO's, without a jitter of the hue."""

    jitter: Jitter = NO_HUE


class NeighbourGlobal(ViewGroup):
    """Global views of each neighbour."""

    count: int = Field(default=1, ge=1, description="views of each neighbour")
    frame: Literal[0] = Field(default=0, description="not to be set: follows from neighbours.count")
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.4, 1.0)
    jitter: Jitter = NO_HUE


class NeighbourLocal(NeighbourGlobal):
    """Local views of each neighbour."""

    count: int = Field(default=2, ge=1, description="views of each neighbour")
    size: int = Field(default=96, ge=8)
    scale: tuple[float, float] = (0.05, 0.4)


class AugmentedViews(DinoViews):
    """DINO's multi-crop of the anchor, and views of its neighbours."""

    global_: AnchorGlobal = Field(default=AnchorGlobal(), alias="global")
    local: AnchorLocal | None = AnchorLocal()
    neighbour_global: NeighbourGlobal = Field(default=NeighbourGlobal(), description="global views of each neighbour")
    neighbour_local: NeighbourLocal | None = Field(
        default=NeighbourLocal(), description="local views of each neighbour; null: none"
    )


class DrawnNeighbours(NeighbourSource):
    """Which neighbours, and how many."""

    count: int = Field(default=2, ge=1, le=MAX_FRAME, description="neighbour frames of each sample")


@METHODS.register
class AugmentedDistillationConfig(DinoConfig):
    """Defaults are those of LemonFM's code, whose published command takes neighbours in time alone."""

    name: Literal["augmented_distillation"] = "augmented_distillation"  # type: ignore[assignment]
    views: AugmentedViews = Field(default=AugmentedViews(), description="the views of the anchor and of its neighbours")
    neighbours: DrawnNeighbours = Field(default=DrawnNeighbours(), description="which neighbours, and how many")

    @override
    def recipe(self) -> ViewRecipe:
        views = {"neighbour_global": self.views.neighbour_global, "neighbour_local": self.views.neighbour_local}
        count = self.neighbours.count
        theirs = {name: _of_each(group, count) for name, group in views.items() if group is not None}
        return ViewRecipe(groups={**super().recipe().groups, **theirs})

    @override
    def neighbour_source(self) -> NeighbourSource:
        return self.neighbours


def _of_each(group: ViewGroup, neighbours: int) -> ViewGroup:
    """The group's views of every neighbour: those of frame 1, then those of frame 2, ..."""
    frames = [frame for frame in range(1, neighbours + 1) for _ in range(group.count)]
    probabilities = {name: group.per_view(name) * neighbours for name in ("grey", "blur", "solarize")}
    return ViewGroup.model_validate(group.model_dump() | {"count": len(frames), "frame": frames} | probabilities)
