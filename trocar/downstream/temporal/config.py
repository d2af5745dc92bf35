"""The settings of a temporal head and of its training."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from trocar.core.config import Config
from trocar.downstream.temporal.head import HeadConfig, HeadRecipe, Optimiser
from trocar.downstream.temporal.heads import AnyHead
from trocar.downstream.temporal.heads.mstcn import MsTcnConfig
from trocar.downstream.temporal.loss import LossConfig


class TemporalConfig(Config):
    """Without a word: TeCNO as SelfSupSurg trains it (2 stages, 9 layers, 64 maps, Adam 7e-4, 100 epochs), but with
    class weights.

    What is None is the head's own published recipe. `feature_noise`: standard deviation of Gaussian noise
    added to the standardised training features. `select`: `validation` keeps the epoch with the best
    validation score, `fixed_epochs` the last. Which epoch is kept changes the result: say it with the number.
    `patience`: stop after so many epochs without a better validation score. `threads`: of torch; None is 1
    where all cases are short, else torch's own number. Sums of floats depend on it, so set it to repeat a run
    bit for bit on another machine.
    """

    head: AnyHead = MsTcnConfig()
    optimiser: Optimiser | None = None
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    epochs: int | None = Field(default=None, ge=1)
    clip: float | None = Field(default=None, ge=0)
    feature_dropout: float | None = Field(default=None, ge=0, lt=1)
    feature_noise: float = Field(default=0.0, ge=0)
    loss: LossConfig = LossConfig()
    select: Literal["validation", "fixed_epochs"] = "validation"
    patience: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)

    def recipe(self) -> HeadRecipe:
        """How the head is trained: its own recipe with what is given here in its place."""
        head: HeadConfig = self.head
        names = HeadRecipe.__dataclass_fields__
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(head.recipe, **given)
