"""What a self-supervised method is: its views, its pure loss, its update after an accepted step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trocar.data.views import ViewRecipe

Views = dict[str, Tensor]
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """Where the run stands: `step` of `total`, and how many steps make an epoch of the selection."""

    step: int
    total: int
    epoch_steps: int


class Method(nn.Module, ABC):
    """Base of all methods. `forward` is `loss`, so that DistributedDataParallel can wrap the method as it is."""

    @abstractmethod
    def recipe(self) -> ViewRecipe:
        """The views the method wants to see."""

    @abstractmethod
    def loss(self, views: Views, progress: Progress) -> Losses:
        """{"loss": scalar, ...scalars to log} of one micro-batch. Changes no state that outlives the step.

        `views`: {group: float32[b, n, 3, S, S]}, normalised.
        """

    @abstractmethod
    def after_step(self, progress: Progress) -> dict[str, float]:
        """Update teacher, centre, queue. Called only for an accepted step. Returns scalars to log."""

    @property
    @abstractmethod
    def backbones(self) -> list[nn.Module]:
        """All networks that see views, the trained one first."""

    @property
    @abstractmethod
    def exported(self) -> nn.Module:
        """The timm backbone that is exported and evaluated."""

    @abstractmethod
    def embed(self, views: Views) -> Tensor:
        """Features float32[m, D] of a batch, for label-free health metrics; no gradient, no state change."""

    def gradients_ready(self, progress: Progress) -> None:
        """Edit gradients after clipping and before the optimizer, such as freezing the last layer."""

    def forget(self) -> None:
        """Drop what `loss` noted for `after_step`: the step was not accepted, or a new one begins."""

    def reference_loss(self) -> float | None:
        """The loss of a collapsed, uniform output (ln K), if the method has one."""
        return None

    def forward(self, views: Views, progress: Progress) -> Losses:
        return self.loss(views, progress)


def norm_buffers(module: nn.Module) -> Iterator[Tensor]:
    """Running statistics that a forward pass in train mode changes."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.track_running_stats:
            yield from child.buffers(recurse=False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Exponential moving average of parameters: teacher = m teacher + (1 - m) student. Buffers are not averaged."""
    theirs = [p.detach() for p in teacher.parameters()]
    ours = [p.detach() for p in student.parameters()]
    torch._foreach_mul_(theirs, momentum)
    torch._foreach_add_(theirs, ours, alpha=1 - momentum)
