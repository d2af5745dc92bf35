"""The settings of the optimizer and of its schedules."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trocar.core.config import Config
from trocar.ssl.engine.schedules import Duration

Share = Annotated[float, Field(ge=0, le=1)]


class Larc(Config):
    """LARS as NVIDIA's apex and VISSL add it to SGD: every parameter is adapted, one-dimensional ones too."""

    trust: float = Field(default=0.001, gt=0, description="trust coefficient")
    clip: bool = Field(default=False, description="adapt downwards only: local rate / lr is at most 1")
    eps: float = Field(default=1e-8, ge=0)


class OptimConfig(Config):
    """Optimizer, schedules, clipping. Defaults are those of DINO's reference code (AdamW).

    For `sgd` and `lars` there is no default of `lr` and `weight_decay`; the decay is constant and nothing is clipped
    unless said otherwise.
    """

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    lr: float = Field(default=5e-4, gt=0, description="peak learning rate for a batch of `lr_batch`")
    scaling: Literal["linear", "sqrt", "none"] = Field(
        default="linear", description="lr x batch / lr_batch; lr x sqrt(batch / lr_batch); or lr as it is"
    )
    lr_batch: int = Field(default=256, ge=1, description="batch size that `lr` is meant for")
    schedule: Literal["cosine", "constant", "steps"] = Field(default="cosine", description="after the warm-up")
    min_lr: float = Field(default=1e-6, ge=0, description="where the cosine ends")
    drops: tuple[Duration, ...] = Field(
        default=(), description="for `steps`: when the rate drops, as in [120 epochs, 160 epochs]"
    )
    drop_factor: float = Field(default=0.1, gt=0, lt=1, description="by which factor")
    warmup: Duration | Literal["auto"] = Field(
        default="10 epochs", description="auto: 10 epochs, but at most 10 % of the run"
    )
    warmup_start: Share = Field(default=0.0, description="first learning rate, as a share of the peak")
    weight_decay: float = Field(default=0.04, ge=0)
    final_weight_decay: float | None = Field(default=0.4, ge=0, description="end of a cosine; null: constant")
    decay: Literal["matrices", "all"] = Field(
        default="matrices", description="what is decayed: not biases and one-dimensional parameters, or those as well"
    )
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="factor on the learning rate per layer from the output to the input"
    )
    patch_embed_lr: float = Field(default=1.0, gt=0, description="factor on the patch embedding's learning rate")
    betas: tuple[Share, Share] = (0.9, 0.999)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd and lars")
    nesterov: bool = False
    larc: Larc | None = Field(default=None, description="layer-wise adaptation of sgd")
    trust: float = Field(default=0.001, gt=0, description="trust coefficient of lars")
    clip: float | None = Field(default=3.0, gt=0)
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
