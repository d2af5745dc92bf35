"""DINO (Caron et al., "Emerging properties in self-supervised vision transformers", arXiv 2104.14294)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from trocar.core.config import Config
from trocar.data.views.recipe import Probability, ViewGroup, ViewRecipe
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.blocks.teachers import MeanLogits, SelfDistillation, SelfDistilled, start_teacher, update_teacher
from trocar.ssl.engine.method import METHODS, Losses, Method, Progress, Views, by_view, freeze_gradients
from trocar.ssl.losses import dino_loss, entropy, prototypes_used
from trocar.ssl.run.auto_values import known


class DinoGlobalViews(ViewGroup):
    """DINO's global views; what is not said keeps the published value."""

    count: Literal[2] = 2
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.4, 1.0)
    blur: Probability = [1.0, 0.1]
    solarize: Probability = [0.0, 0.2]


class DinoLocalViews(ViewGroup):
    """DINO's local views; what is not said keeps the published value."""

    count: int = Field(default=8, ge=1)
    size: int = Field(default=96, ge=8)
    scale: tuple[float, float] = (0.05, 0.4)


class DinoViews(Config):
    """DINO's multi-crop: two global views with asymmetric blur and solarization, and local views."""

    global_: DinoGlobalViews = Field(default=DinoGlobalViews(), alias="global", description="the two large views")
    local: DinoLocalViews | None = Field(default=DinoLocalViews(), description="the small views; null: none")

    def recipe(self) -> ViewRecipe:
        """Global views first: the teacher sees these."""
        local = {"local": self.local} if self.local is not None else {}
        return ViewRecipe(groups={"global": self.global_, **local})


@METHODS.register
class DinoConfig(SelfDistillation):
    """Defaults are those of the reference code (arguments of `main_dino.py`); docs/pretrain.md has the differences."""

    name: Literal["dino"] = "dino"
    views: DinoViews = Field(default=DinoViews(), description="the views of a sample")

    @override
    def recipe(self) -> ViewRecipe:
        return self.views.recipe()

    @override
    def build(self, networks: Networks) -> Method:
        return Dino(self, networks)


class Dino(SelfDistilled):
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
        self._mean = MeanLogits()

    @override
    def loss(self, views: Views, progress: Progress) -> Losses:
        student = by_view(self.student, views.crops.values(), self.student_head)
        with torch.no_grad():
            logits = by_view(self.teacher, [views["global"]], self.teacher_head).float()
            target = self.config.targets(logits, self.centre, progress)
        self._mean.note(logits)
        return {
            "loss": dino_loss(student, target, self.config.student_temperature),
            "teacher_entropy": entropy(target),
            "prototypes_used": prototypes_used(target),
        }

    @override
    def after_step(self, progress: Progress) -> dict[str, float]:
        self.centre.copy_(self._mean.moved(self.centre, self.config.centre_momentum))
        momentum = self.config.momentum_at(progress)
        update_teacher(self.teacher, self.student, momentum)
        update_teacher(self.teacher_head, self.student_head, momentum)
        self.forget()
        return {"momentum": momentum, "teacher_temperature": self.config.temperature_at(progress)}

    @override
    def forget(self) -> None:
        self._mean.clear()

    @override
    def gradients_ready(self, progress: Progress) -> None:
        if self.config.is_frozen(progress):
            freeze_gradients(self.student_head.get_submodule("last_layer"))
