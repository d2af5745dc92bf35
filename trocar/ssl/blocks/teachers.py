"""Teachers: the moving average of a student, or a finished network that never trains.

Also what methods have in common that learn prototypes from a moving average of themselves: DINO and its successors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.backbones.identify import fingerprint
from trocar.backbones.preprocess import Preprocessing, describe_backbone, feature_width, fit_input_size
from trocar.core.config import Config
from trocar.errors import ConfigError
from trocar.ssl.blocks.heads import DinoHead
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.engine.method import Method, MethodConfig, Progress
from trocar.ssl.engine.optimizer import Duration, cosine, counts_epochs, stairs, steps_in
from trocar.ssl.losses import balanced_probabilities, teacher_probabilities, update_centre
from trocar.ssl.ranks.distributed import mean_over_ranks
from trocar.ssl.ranks.parts import own_part
from trocar.ssl.run import auto_values
from trocar.ssl.run.auto_values import Advice, Auto, DataSize, known


def start_teacher(teacher: nn.Module, student: nn.Module) -> None:
    """Give the teacher the student's weights; it takes no gradient."""
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Exponential moving average of parameters: teacher = m teacher + (1 - m) student. Buffers are not averaged.

    As a step from the one to the other, which leaves equal weights as they are, to the bit: those of a backbone that is
    frozen or learns by low-rank factors would else drift by rounding. Factors are averaged each, not their product.
    """
    theirs = [own_part(p.detach()) for p in teacher.parameters()]
    ours = [own_part(p.detach()) for p in student.parameters()]
    torch._foreach_lerp_(theirs, ours, 1 - momentum)


class FrozenConfig(Config):
    """A frozen teacher."""

    name: str = Field(description="timm:NAME, published weights, a run or an exported backbone")
    fingerprint: str | None = Field(default=None, description="refuse other weights (`trocar inspect` prints it)")
    size: int | None = Field(
        default=None, ge=8, description="pixels to which views are resized for the teacher; null: left as they are"
    )

    def build(self, networks: Networks) -> FrozenTeacher:
        """The teacher for the views of `networks`.

        Raises ConfigError for a name that isn't known or stands for random weights and for a size that the network
        doesn't take, TrocarError for weights with another fingerprint.
        """
        network = networks.frozen(self.name, self.fingerprint)
        weights = str(fingerprint(network))  # at the network's own size, as `trocar inspect` takes it
        views = networks.preprocessing
        shape = describe_backbone(network)
        size = self.size or views.size[0]
        try:
            network = fit_input_size(network, size)
            width = feature_width(network, self.name, [size])
        except ConfigError as error:
            raise ConfigError(
                f"method.teacher: {self.name} was made for views of {shape.size[0]} pixels and does not take "
                f"{size} ({error}); method.teacher.size={shape.size[0]} would resize the views for it"
            ) from None
        return FrozenTeacher(network, views, shape, self.size, width, weights)


class NetworkHolder(nn.Module):
    """Holds networks in eval mode that never train.

    They follow `.to()`, but are no submodules: a checkpoint does not hold them, `train()` does not reach them, no
    optimizer or DistributedDataParallel sees them.
    """

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        # In a tuple, as nn.Module registers what it is given itself.
        self._held = tuple(network.requires_grad_(False).eval() for network in networks)

    @property
    def held(self) -> tuple[nn.Module, ...]:
        """The networks."""
        return self._held

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for network in self._held:
            network._apply(fn)  # type: ignore[no-untyped-call]
        return self


class FrozenTeacher(NetworkHolder):
    """Views [n, 3, S, S] in the student's normalisation -> pooled features [n, width] of a network in eval mode.

    The network is held and no submodule. `fingerprint` tells its weights.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        views: Preprocessing,
        wanted: Preprocessing,
        size: int | None,
        width: int,
        fingerprint: str,
    ) -> None:
        super().__init__(network)
        self.size, self.width, self.fingerprint = size, width, fingerprint
        # (x std + mean - mean') / std' takes a view from one normalisation to the other.
        mean, std = torch.tensor(views.mean).view(3, 1, 1), torch.tensor(views.std).view(3, 1, 1)
        theirs, their_std = torch.tensor(wanted.mean).view(3, 1, 1), torch.tensor(wanted.std).view(3, 1, 1)
        self.register_buffer("scale", std / their_std, persistent=False)
        self.register_buffer("shift", (mean - theirs) / their_std, persistent=False)

    @property
    def network(self) -> nn.Module:
        """The frozen backbone."""
        return self.held[0]

    @torch.no_grad()
    @override
    def forward(self, views: Tensor) -> Tensor:
        x = views * self.scale + self.shift
        if self.size is not None and self.size != x.shape[-1]:
            x = F.interpolate(x, size=(self.size, self.size), mode="bicubic", antialias=True)
        features: Tensor = self.network(x)
        return features.float()


def frozen_networks(module: nn.Module) -> list[nn.Module]:
    """The networks that parts of `module` hold, which its own `parameters()` and `modules()` don't show."""
    return [network for m in module.modules() if isinstance(m, NetworkHolder) for network in m.held]


class SelfDistillation(MethodConfig):
    """Head, temperatures, teacher and centring, with DINO's values where a method names no other."""

    head: DinoHead = Field(default=DinoHead(), description="the projection head")
    student_temperature: float = Field(default=0.1, gt=0, description="temperature of the student's softmax")
    teacher_temperature: Annotated[float, Field(gt=0)] | Auto = Field(
        default=0.04, description="temperature of the teacher's softmax after the warm-up; auto: what suits the data"
    )
    warmup_teacher_temperature: Annotated[float, Field(gt=0)] | Auto = Field(
        default=0.04, description="temperature of the teacher's softmax at the start; auto: what suits the data"
    )
    teacher_temperature_warmup: Duration = Field(
        default="0 epochs",
        description="length of the linear warm-up of the teacher's temperature, such as `30 epochs`, `500 steps` or "
        "`10 %`",
    )
    teacher_temperature_stairs: bool = Field(
        default=True,
        description="a warm-up given in epochs holds each value for an epoch, as in DINO; false: one per step",
    )
    momentum: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        default=0.996,
        description="momentum of the teacher at the start, 0 to 1; it is 1 at the end; auto: what suits the data",
    )
    centring: Literal["mean", "sinkhorn"] = Field(
        default="mean",
        description="what keeps prototypes in use: a moving mean (DINO) or Sinkhorn-Knopp (DINOv2)",
    )
    centre_momentum: float = Field(default=0.9, ge=0, le=1, description="momentum of the moving mean, 0 to 1")
    freeze_last_layer: Duration = Field(
        default="1 epoch",
        description="how long the prototypes stay as they are, such as `1 epoch`, `500 steps` or `10 %`",
    )

    @override
    def advice(self, data: DataSize) -> list[Advice]:
        frozen = steps_in(self.freeze_last_layer, data.epoch_steps, data.total)
        return [
            auto_values.prototypes("head.prototypes", self.head.prototypes, data),
            *(
                auto_values.teacher_temperature(key, getattr(self, key), data, self._published(key))
                for key in ("teacher_temperature", "warmup_teacher_temperature")
            ),
            auto_values.momentum("momentum", self.momentum, data, self._published("momentum")),
            auto_values.at_first("freeze_last_layer", self.freeze_last_layer, frozen, data),
        ]

    def temperature_at(self, progress: Progress) -> float:
        """The teacher's: linear over the warm-up, in stairs of an epoch if that is given in epochs and wants them."""
        warmup = self.teacher_temperature_warmup
        in_stairs = self.teacher_temperature_stairs and counts_epochs(warmup)
        return stairs(
            progress.step,
            known(self.warmup_teacher_temperature),
            known(self.teacher_temperature),
            steps_in(warmup, progress.epoch_steps, progress.total),
            progress.epoch_steps if in_stairs else 1,
        )

    def momentum_at(self, progress: Progress) -> float:
        """The teacher's: a half cosine to 1."""
        return cosine(progress.step, known(self.momentum), 1.0, progress.total)

    def is_frozen(self, progress: Progress) -> bool:
        """Whether the last layer doesn't move yet (reference: during the first epoch)."""
        return progress.step < steps_in(self.freeze_last_layer, progress.epoch_steps, progress.total)

    def targets(self, logits: Tensor, centre: Tensor, progress: Progress) -> Tensor:
        """The teacher's distributions float32[..., K] of its logits [..., K]; `centre` [K] is of the moving mean."""
        temperature = self.temperature_at(progress)
        if self.centring == "sinkhorn":
            return balanced_probabilities(logits, temperature)
        return teacher_probabilities(logits, centre, temperature)

    @classmethod
    def _published(cls, key: str) -> Any:
        return cls.model_fields[key].default


class SelfDistilled(Method):
    """A method whose teacher is the moving average of its student, and is what it is all for."""

    config: SelfDistillation
    student: nn.Module
    teacher: nn.Module

    @property
    @override
    def backbones(self) -> list[nn.Module]:
        return [self.student, self.teacher]

    @property
    @override
    def exported(self) -> nn.Module:
        return self.teacher

    @override
    def reference_loss(self) -> float:
        return math.log(known(self.config.head.prototypes))


class MeanLogits:
    """The mean of the teacher's logits over the micro-batches of a step and all ranks, each with any number of them."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def note(self, logits: Tensor) -> None:
        """Of one micro-batch, [..., K]."""
        flat = logits.float().flatten(0, -2)
        self._sums.append(torch.cat([flat.sum(0), flat.new_full((1,), len(flat))]))

    def moved(self, centre: Tensor, momentum: float) -> Tensor:
        """`centre` [K] a step nearer to the mean; as it was if there were no logits at all."""
        total = mean_over_ranks(torch.stack(self._sums).sum(0))
        number = total[-1]
        return torch.where(number > 0, update_centre(centre, total[:-1] / number, momentum), centre)

    def clear(self) -> None:
        """Forget what was noted."""
        self._sums.clear()
