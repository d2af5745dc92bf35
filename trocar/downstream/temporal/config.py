"""The settings of a temporal head and of its training."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from trocar.core.config import Config
from trocar.downstream.temporal.head import AnyHead, HeadConfig, HeadRecipe, Optimiser
from trocar.downstream.temporal.heads.mstcn import MsTcnConfig
from trocar.downstream.temporal.loss import LossConfig


class TemporalConfig(Config):
    """Without a word: TeCNO as SelfSupSurg trains it (2 stages, 9 layers, 64 maps, Adam 7e-4, 100 epochs), but with
    class weights. What is null is the head's own published recipe.
    """

    head: AnyHead = Field(
        default=MsTcnConfig(), description="the network over time; `name` says which head's settings these are"
    )
    optimiser: Optimiser | None = Field(default=None, description="null: the head's own")
    lr: float | None = Field(default=None, gt=0, description="learning rate; null: the head's own")
    weight_decay: float | None = Field(
        default=None, ge=0, description="L2 in the gradient for adam, decoupled for adamw; null: the head's own"
    )
    epochs: int | None = Field(
        default=None, ge=1, description="epochs, at most or exactly (`select`); null: the head's own"
    )
    clip: float | None = Field(
        default=None, ge=0, description="largest norm of the gradient, 0 for none; null: the head's own"
    )
    feature_dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of the feature dimensions set to zero over a whole case, 0 to below 1; null: the head's own",
    )
    feature_noise: float = Field(
        default=0.0,
        ge=0,
        description="standard deviation of Gaussian noise added to the standardised training features",
    )
    loss: LossConfig = Field(default=LossConfig(), description="class weights and the penalty on jumps")
    select: Literal["validation", "fixed_epochs"] = Field(
        default="validation",
        description="validation: keep the epoch with the best validation score; fixed_epochs: the last; the choice "
        "changes the result, so say it with the number",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="epochs without a better validation score after which training stops; null: all are trained",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="threads of torch; null: 1 where all cases are short, else torch's own number; sums of floats "
        "depend on it, so set it to repeat a run bit for bit on another machine",
    )

    def recipe(self) -> HeadRecipe:
        """How the head is trained: its own recipe with what is given here in its place."""
        head: HeadConfig = self.head
        names = HeadRecipe.__dataclass_fields__
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(head.recipe, **given)
