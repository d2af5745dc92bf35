"""Teachers: the moving average of a student, or a finished network that never trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.backbones.preprocess import Preprocessing, describe_backbone, feature_width, fit_input_size
from trocar.backbones.weights.identify import fingerprint
from trocar.core.config import Config
from trocar.errors import ConfigError
from trocar.ssl.blocks.networks import Networks


def start_teacher(teacher: nn.Module, student: nn.Module) -> None:
    """Give the teacher the student's weights; it takes no gradient."""
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Exponential moving average of parameters: teacher = m teacher + (1 - m) student. Buffers are not averaged."""
    theirs = [p.detach() for p in teacher.parameters()]
    ours = [p.detach() for p in student.parameters()]
    torch._foreach_mul_(theirs, momentum)
    torch._foreach_add_(theirs, ours, alpha=1 - momentum)


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


class FrozenTeacher(nn.Module):
    """Views [n, 3, S, S] in the student's normalisation -> pooled features [n, width] of a network in eval mode.

    The network follows `.to()`, but is no submodule: a checkpoint does not hold it, `train()` does not reach it, no
    optimizer or DistributedDataParallel sees it. `fingerprint` tells its weights.
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
        super().__init__()
        # In a tuple, as nn.Module registers what it is given itself.
        self._held = (network.requires_grad_(False).eval(),)
        self.size, self.width, self.fingerprint = size, width, fingerprint
        # (x std + mean - mean') / std' takes a view from one normalisation to the other.
        mean, std = torch.tensor(views.mean).view(3, 1, 1), torch.tensor(views.std).view(3, 1, 1)
        theirs, their_std = torch.tensor(wanted.mean).view(3, 1, 1), torch.tensor(wanted.std).view(3, 1, 1)
        self.register_buffer("scale", std / their_std, persistent=False)
        self.register_buffer("shift", (mean - theirs) / their_std, persistent=False)

    @property
    def network(self) -> nn.Module:
        """The frozen backbone."""
        return self._held[0]

    @torch.no_grad()
    @override
    def forward(self, views: Tensor) -> Tensor:
        x = views * self.scale + self.shift
        if self.size is not None and self.size != x.shape[-1]:
            x = F.interpolate(x, size=(self.size, self.size), mode="bicubic", antialias=True)
        features: Tensor = self.network(x)
        return features.float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.network._apply(fn)  # type: ignore[no-untyped-call]
        return self


def frozen_networks(module: nn.Module) -> list[nn.Module]:
    """The networks of the frozen teachers in `module`, which its own `parameters()` and `modules()` don't show."""
    return [m.network for m in module.modules() if isinstance(m, FrozenTeacher)]
