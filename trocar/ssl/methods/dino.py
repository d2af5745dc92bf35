"""DINO (Caron et al., "Emerging properties in self-supervised vision transformers", arXiv 2104.14294)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trocar.config import Config
from trocar.data.views import Probability, ViewGroup, ViewRecipe
from trocar.ssl import advice
from trocar.ssl.advice import Advice, Auto, DataSize, known
from trocar.ssl.distributed import mean_over_ranks
from trocar.ssl.heads import DinoHead
from trocar.ssl.losses.dino import dino_loss, entropy, prototypes_used, teacher_probabilities, update_centre
from trocar.ssl.losses.sinkhorn import balanced_probabilities
from trocar.ssl.method import Losses, Method, MethodConfig, freeze_gradients
from trocar.ssl.networks import Networks
from trocar.ssl.sample import Progress, Views, by_view
from trocar.ssl.schedules import Duration, cosine, stairs, steps_in
from trocar.ssl.teacher import start_teacher, update_teacher


class GlobalViews(ViewGroup):
    """DINO's global views; what is not said keeps the published value."""

    count: Literal[2] = 2
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.4, 1.0)
    blur: Probability = [1.0, 0.1]
    solarize: Probability = [0.0, 0.2]


class LocalViews(ViewGroup):
    """DINO's local views; what is not said keeps the published value."""

    count: int = Field(default=8, ge=1)
    size: int = Field(default=96, ge=8)
    scale: tuple[float, float] = (0.05, 0.4)


class DinoViews(Config):
    """DINO's multi-crop: two global views with asymmetric blur and solarization, and local views."""

    global_: GlobalViews = Field(default=GlobalViews(), alias="global")
    local: LocalViews | None = LocalViews()


class DinoConfig(MethodConfig):
    """Defaults are those of the reference code for ViT-S/16."""

    name: Literal["dino"] = "dino"
    views: DinoViews = DinoViews()
    head: DinoHead = DinoHead()
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: Annotated[float, Field(gt=0)] | Auto = 0.04
    warmup_teacher_temperature: Annotated[float, Field(gt=0)] | Auto = 0.04
    warmup_teacher_temperature_epochs: int = Field(default=0, ge=0)
    momentum: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        default=0.996, description="of the teacher at the start; 1 at the end"
    )
    centring: Literal["mean", "sinkhorn"] = Field(
        default="mean",
        description="what keeps prototypes in use: a moving mean (DINO) or Sinkhorn-Knopp (DINOv2)",
    )
    centre_momentum: float = Field(default=0.9, ge=0, le=1, description="of the moving mean")
    freeze_last_layer: Duration = "1 epoch"

    def recipe(self) -> ViewRecipe:
        local = {"local": self.views.local} if self.views.local is not None else {}
        return ViewRecipe(groups={"global": self.views.global_, **local})

    def build(self, networks: Networks) -> Method:
        return Dino(self, networks)

    def advice(self, data: DataSize) -> list[Advice]:
        frozen = steps_in(self.freeze_last_layer, data.epoch_steps, data.total)
        return [
            advice.prototypes("head.prototypes", self.head.prototypes, data),
            advice.teacher_temperature("teacher_temperature", self.teacher_temperature, data),
            advice.teacher_temperature("warmup_teacher_temperature", self.warmup_teacher_temperature, data),
            advice.momentum("momentum", self.momentum, data, published=0.996),
            advice.frozen_steps("freeze_last_layer", self.freeze_last_layer, frozen, data),
        ]


class Dino(Method):
    """Student and teacher of one architecture; the teacher is the moving average of the student."""

    centre: Tensor

    def __init__(self, config: DinoConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.student, self.student_head = networks.student(), config.head.build(networks.width)
        self.teacher, self.teacher_head = networks.teacher(), config.head.build(networks.width)
        start_teacher(self.teacher, self.student)
        start_teacher(self.teacher_head, self.student_head)
        self.register_buffer("centre", torch.zeros(known(config.head.prototypes)))
        self._teacher_means: list[Tensor] = []

    def loss(self, views: Views, progress: Progress) -> Losses:
        student = by_view(lambda x: self.student_head(self.student(x)), views.crops.values())
        with torch.no_grad():
            logits = by_view(lambda x: self.teacher_head(self.teacher(x)), [views["global"]]).float()
            temperature = self.teacher_temperature(progress)
            if self.config.centring == "sinkhorn":
                target = balanced_probabilities(logits, temperature)
            else:
                target = teacher_probabilities(logits, self.centre, temperature)
            self._teacher_means.append(logits.mean((0, 1)))
        return {
            "loss": dino_loss(student, target, self.config.student_temperature),
            "teacher_entropy": entropy(target),
            "prototypes_used": prototypes_used(target),
        }

    def after_step(self, progress: Progress) -> dict[str, float]:
        mean = mean_over_ranks(torch.stack(self._teacher_means).mean(0))
        self.centre.copy_(update_centre(self.centre, mean, self.config.centre_momentum))
        momentum = cosine(progress.step, known(self.config.momentum), 1.0, progress.total)
        update_teacher(self.teacher, self.student, momentum)
        update_teacher(self.teacher_head, self.student_head, momentum)
        self.forget()
        return {"momentum": momentum, "teacher_temperature": self.teacher_temperature(progress)}

    def forget(self) -> None:
        self._teacher_means.clear()

    def gradients_ready(self, progress: Progress) -> None:
        """The last layer doesn't move at first (reference: during the first epoch)."""
        if progress.step < steps_in(self.config.freeze_last_layer, progress.epoch_steps, progress.total):
            freeze_gradients(self.student_head.get_submodule("last_layer"))

    @property
    def backbones(self) -> list[nn.Module]:
        return [self.student, self.teacher]

    @property
    def exported(self) -> nn.Module:
        return self.teacher

    def reference_loss(self) -> float:
        return math.log(known(self.config.head.prototypes))

    def teacher_temperature(self, progress: Progress) -> float:
        """One value per epoch, linear over the warm-up epochs."""
        config = self.config
        return stairs(
            progress.step,
            known(config.warmup_teacher_temperature),
            known(config.teacher_temperature),
            config.warmup_teacher_temperature_epochs,
            progress.epoch_steps,
        )
