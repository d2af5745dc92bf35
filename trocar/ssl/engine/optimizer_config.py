"""The settings of the optimizer and of its schedules.

Schedules: pure functions of the step, after `cosine_scheduler` of DINO's reference code (arXiv 2104.14294).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from trocar.core.config import Config
from trocar.errors import ConfigError

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|%)\s*")


def _check_duration(value: str) -> str:
    if not _DURATION.fullmatch(value):
        raise ValueError("expected a number with its unit, such as '500 steps', '10 epochs' or '10 %'")
    return value


Duration = Annotated[str, AfterValidator(_check_duration)]
"""A length of training: '500 steps', '10 epochs' or '10 %' (of the run)."""


def steps_in(duration: Duration, epoch_steps: int, total: int) -> int:
    """A duration in steps; an epoch is `epoch_steps` steps, a percentage is of `total`."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ConfigError(f"not a duration: {duration!r}")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return round(number / 100 * total)
    return round(number * (epoch_steps if unit.startswith("epoch") else 1))


def counts_epochs(duration: Duration) -> bool:
    """Whether a duration is given in epochs."""
    return "epoch" in duration


def warmed_up(step: int, base: float, warmup: int, start: float = 0.0) -> float:
    """Linear from `start` to `base` over `warmup` steps (numpy's linspace), then `base`."""
    if step < warmup:
        return start + (base - start) * step / max(1, warmup - 1)
    return base


def cosine(step: int, base: float, final: float, total: int, warmup: int = 0, start: float = 0.0) -> float:
    """Warm-up from `start` to `base` over `warmup` steps, then a half cosine to `final`.

    After the warm-up: final + (base - final) (1 + cos(pi i / n)) / 2 with i = step - warmup, n = total - warmup.
    As in the reference, step total - 1 is the last one, so `final` itself is approached, not reached.
    """
    if step < warmup:
        return warmed_up(step, base, warmup, start)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def stairs(step: int, start: float, end: float, warmup: int, stair: int) -> float:
    """numpy's linspace(start, end) over `warmup` steps, held for `stair` steps at a time, then `end`.

    The teacher's temperature: DINO's code has one value per epoch, DINOv2's and VISSL's one per step.
    """
    if step >= warmup:
        return end
    return start + (end - start) * (step // stair) / max(1, math.ceil(warmup / stair) - 1)


Share = Annotated[float, Field(ge=0, le=1)]


class Larc(Config):
    """LARS as NVIDIA's apex and VISSL add it to SGD: every parameter is adapted, one-dimensional ones too."""

    trust: float = Field(default=0.001, gt=0, description="trust coefficient")
    clip: bool = Field(default=False, description="adapt downwards only: local rate / lr is at most 1")
    eps: float = Field(default=1e-8, ge=0, description="what is added to the denominator of the local rate")


class OptimConfig(Config):
    """Optimizer, schedules, clipping. Defaults are those of DINO's reference code (AdamW).

    For `sgd` and `lars` there is no default of `lr` and `weight_decay`; the decay is constant and nothing is clipped
    unless said otherwise.
    """

    name: Literal["adamw", "sgd", "lars"] = Field(default="adamw", description="AdamW, SGD or LARS")
    lr: float = Field(default=5e-4, gt=0, description="peak learning rate for a batch of `lr_batch`")
    scaling: Literal["linear", "sqrt", "none"] = Field(
        default="linear", description="lr x batch / lr_batch; lr x sqrt(batch / lr_batch); or lr as it is"
    )
    lr_batch: int = Field(default=256, ge=1, description="batch size that `lr` is meant for")
    schedule: Literal["cosine", "constant", "steps"] = Field(
        default="cosine", description="course of the learning rate after the warm-up"
    )
    min_lr: float = Field(default=1e-6, ge=0, description="learning rate at the end of the cosine")
    drops: tuple[Duration, ...] = Field(
        default=(), description="with `steps`: when the rate drops, such as [120 epochs, 160 epochs]"
    )
    drop_factor: float = Field(default=0.1, gt=0, lt=1, description="factor on the rate at each drop, between 0 and 1")
    warmup: Duration | Literal["auto"] = Field(
        default="10 epochs",
        description="length of the linear warm-up, such as `10 epochs`, `500 steps` or `10 %`; auto: 10 epochs, but "
        "at most 10 % of the run",
    )
    warmup_start: Share = Field(default=0.0, description="first learning rate, as a share of the peak")
    weight_decay: float = Field(default=0.04, ge=0, description="weight decay at the start")
    final_weight_decay: float | None = Field(default=0.4, ge=0, description="end of a cosine; null: constant")
    decay: Literal["matrices", "all"] = Field(
        default="matrices", description="what is decayed: not biases and one-dimensional parameters, or those as well"
    )
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="factor on the learning rate per layer from the output to the input"
    )
    patch_embed_lr: float = Field(default=1.0, gt=0, description="factor on the patch embedding's learning rate")
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.999), description="decay rates of AdamW's two moments, each 0 to 1"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd and lars, 0 to below 1")
    nesterov: bool = Field(default=False, description="Nesterov's momentum, with sgd")
    larc: Larc | None = Field(default=None, description="layer-wise adaptation of sgd")
    trust: float = Field(default=0.001, gt=0, description="trust coefficient of lars")
    clip: float | None = Field(
        default=3.0, gt=0, description="largest norm of the gradient; null: gradients are not clipped"
    )
    clip_by: Literal["parameter", "global"] = Field(
        default="parameter", description="norm of each parameter's gradient (DINO's reference code), or of all together"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_sgd(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or tree.get("name", "adamw") not in ("sgd", "lars"):
            return tree
        if missing := [key for key in ("lr", "weight_decay") if key not in tree]:
            raise ValueError(f"{tree['name']} needs {' and '.join(missing)}: the defaults are AdamW's")
        return {"final_weight_decay": None, "clip": None, **tree}

    @model_validator(mode="after")
    def _consistent(self) -> OptimConfig:
        if self.larc is not None and self.name != "sgd":
            raise ValueError("larc adapts sgd; set name: sgd, or leave larc away")
        if self.nesterov and (self.name == "adamw" or self.momentum == 0):
            raise ValueError("nesterov needs sgd or lars with momentum")
        if bool(self.drops) != (self.schedule == "steps"):
            raise ValueError("schedule: steps and drops, such as [120 epochs, 160 epochs], belong together")
        return self

    @property
    def label(self) -> str:
        """The optimizer's name for people."""
        name = {"adamw": "AdamW", "sgd": "SGD", "lars": "LARS"}[self.name]
        return f"{name} with LARC" if self.larc is not None else name
