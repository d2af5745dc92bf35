"""Optimizer, clipping, and the schedules of learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trocar.config import Config
from trocar.ssl.schedules import Duration, cosine, steps_in


class OptimConfig(Config):
    """AdamW with DINO's schedules. The learning rate in effect is `lr` x global batch / `lr_batch`."""

    lr: float = Field(default=5e-4, gt=0)
    lr_batch: int = Field(default=256, ge=1, description="batch size that `lr` is meant for")
    min_lr: float = Field(default=1e-6, ge=0)
    warmup: Duration = "10 epochs"
    weight_decay: float = Field(default=0.04, ge=0)
    final_weight_decay: float = Field(default=0.4, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = Field(default=3.0, gt=0)
    clip_by: Literal["parameter", "global"] = Field(
        default="parameter", description="norm of each parameter's gradient (DINO's reference code), or of all together"
    )


@dataclass(frozen=True)
class Schedule:
    """Learning rate and weight decay of one run, as functions of the step."""

    config: OptimConfig
    batch: int
    total: int
    epoch_steps: int

    @property
    def peak_lr(self) -> float:
        """The learning rate in effect after the warm-up."""
        return self.config.lr * self.batch / self.config.lr_batch

    @property
    def warmup_steps(self) -> int:
        """Length of the warm-up, never more than the run."""
        return min(self.total, steps_in(self.config.warmup, self.epoch_steps, self.total))

    def lr(self, step: int) -> float:
        """Linear warm-up from 0, then cosine to `min_lr`."""
        return cosine(step, self.peak_lr, self.config.min_lr, self.total, self.warmup_steps)

    def weight_decay(self, step: int) -> float:
        """Cosine from `weight_decay` to `final_weight_decay`, no warm-up."""
        return cosine(step, self.config.weight_decay, self.config.final_weight_decay, self.total)

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
        """Set both on the optimizer's groups; returns what was set."""
        lr, decay = self.lr(step), self.weight_decay(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = decay * group["weight_decay_scale"]
        return {"lr": lr, "weight_decay": decay}


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over the parameters that train; learning rate and decay are set before each step."""
    return torch.optim.AdamW(parameter_groups(module), lr=0.0, betas=config.betas, fused=True)


def parameter_groups(module: nn.Module) -> list[dict[str, object]]:
    """Two groups, as in DINO: weights with decay; biases and one-dimensional parameters without.

    Only parameters that train. The second group carries `weight_decay_scale` 0.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (plain if name.endswith(".bias") or parameter.ndim == 1 else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay_scale": 1.0},
        {"params": plain, "weight_decay_scale": 0.0},
    ]


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], config: OptimConfig) -> Tensor:
    """Clip in place and return the global gradient norm before clipping, a scalar on the device.

    By parameter: g <- g min(1, clip / (|g| + 1e-6)) for each parameter, as in DINO's reference code.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    if config.clip is None:
        return total
    if config.clip_by == "parameter":
        factors = [(config.clip / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
    else:
        factors = [(config.clip / (total + 1e-6)).clamp(max=1.0)] * len(norms)
    torch._foreach_mul_(gradients, factors)
    return total
