"""DINO (Caron et al., "Emerging properties in self-supervised vision transformers", arXiv 2104.14294)."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from lightly.models.modules.heads import DINOProjectionHead
from pydantic import Field
from torch import Tensor, nn

from trocar.config import Config
from trocar.data.views import Probability, ViewGroup, ViewRecipe
from trocar.ssl.dino_loss import (
    balanced_probabilities,
    dino_loss,
    entropy,
    prototypes_used,
    teacher_probabilities,
    update_centre,
)
from trocar.ssl.distributed import mean_over_ranks
from trocar.ssl.method import Losses, Method, Progress, Views, update_teacher
from trocar.ssl.schedules import Duration, cosine, stairs, steps_in


class DinoHead(Config):
    """The projection head: input -> hidden -> hidden -> bottleneck -> normalise -> K prototypes."""

    prototypes: int = Field(default=65536, ge=2, description="K, the number of outputs")
    hidden: int = Field(default=2048, ge=1)
    bottleneck: int = Field(default=256, ge=1)
    batch_norm: bool = False
    norm_last_layer: bool = Field(default=True, description="keep the prototypes at unit length")


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


class DinoConfig(Config):
    """Defaults are those of the reference code for ViT-S/16."""

    name: Literal["dino"] = "dino"
    views: DinoViews = DinoViews()
    head: DinoHead = DinoHead()
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: float = Field(default=0.04, gt=0)
    warmup_teacher_temperature: float = Field(default=0.04, gt=0)
    warmup_teacher_temperature_epochs: int = Field(default=0, ge=0)
    momentum: float = Field(default=0.996, ge=0, le=1, description="of the teacher at the start; 1 at the end")
    centring: Literal["mean", "sinkhorn"] = Field(
        default="mean",
        description="what keeps prototypes in use: a moving mean (DINO) or Sinkhorn-Knopp (DINOv2)",
    )
    centre_momentum: float = Field(default=0.9, ge=0, le=1, description="of the moving mean")
    freeze_last_layer: Duration = "1 epoch"


class Dino(Method):
    """Student and teacher of one architecture; the teacher is the moving average of the student."""

    centre: Tensor

    def __init__(self, config: DinoConfig, student: nn.Module, teacher: nn.Module, features: int) -> None:
        """`student` and `teacher` are timm backbones with pooled output [n, features], built alike.

        The teacher starts as a copy of the student. Build it without stochastic depth: a teacher that drops paths at
        random gives noisy targets.
        """
        super().__init__()
        self.config = config
        self.student, self.student_head = student, _head(config.head, features)
        self.teacher, self.teacher_head = teacher, _head(config.head, features)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        for parameter in (*self.teacher.parameters(), *self.teacher_head.parameters()):
            parameter.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(config.head.prototypes))
        self._teacher_means: list[Tensor] = []

    def recipe(self) -> ViewRecipe:
        views = self.config.views
        local = {"local": views.local} if views.local is not None else {}
        return ViewRecipe(groups={"global": views.global_, **local})

    def loss(self, views: Views, progress: Progress) -> Losses:
        student = torch.cat([self._logits(self.student, self.student_head, x) for x in views.values()])
        with torch.no_grad():
            logits = self._logits(self.teacher, self.teacher_head, views["global"]).float()
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
        momentum = cosine(progress.step, self.config.momentum, 1.0, progress.total)
        update_teacher(self.teacher, self.student, momentum)
        update_teacher(self.teacher_head, self.student_head, momentum)
        self.forget()
        return {"momentum": momentum, "teacher_temperature": self.teacher_temperature(progress)}

    def forget(self) -> None:
        self._teacher_means.clear()

    def gradients_ready(self, progress: Progress) -> None:
        """The last layer doesn't move at first (reference: during the first epoch)."""
        frozen = steps_in(self.config.freeze_last_layer, progress.epoch_steps, progress.total)
        if progress.step < frozen:
            for parameter in self.student_head.last_layer.parameters():
                parameter.grad = None

    @property
    def backbones(self) -> list[nn.Module]:
        return [self.student, self.teacher]

    @property
    def exported(self) -> nn.Module:
        return self.teacher

    @torch.no_grad()
    def embed(self, views: Views) -> Tensor:
        was_training = self.teacher.training
        self.teacher.eval()
        features: Tensor = self.teacher(views["global"][:, 0]).float()
        self.teacher.train(was_training)
        return features

    def reference_loss(self) -> float:
        return math.log(self.config.head.prototypes)

    def teacher_temperature(self, progress: Progress) -> float:
        """One value per epoch, linear over the warm-up epochs."""
        config = self.config
        return stairs(
            progress.step,
            config.warmup_teacher_temperature,
            config.teacher_temperature,
            config.warmup_teacher_temperature_epochs,
            progress.epoch_steps,
        )

    @staticmethod
    def _logits(backbone: nn.Module, head: nn.Module, views: Tensor) -> Tensor:
        """[b, n, 3, S, S] -> logits [n, b, K], view by view as the loss counts them."""
        b, n = views.shape[:2]
        out: Tensor = head(backbone(views.transpose(0, 1).flatten(0, 1)))
        return out.view(n, b, -1)


def _head(config: DinoHead, features: int) -> DINOProjectionHead:
    with warnings.catch_warnings():
        # lightly still uses torch's older spelling of weight normalisation.
        warnings.filterwarnings("ignore", ".*weight_norm.*deprecated", FutureWarning)
        return DINOProjectionHead(
            input_dim=features,
            hidden_dim=config.hidden,
            bottleneck_dim=config.bottleneck,
            output_dim=config.prototypes,
            batch_norm=config.batch_norm,
            norm_last_layer=config.norm_last_layer,
        )
