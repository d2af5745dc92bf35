"""The settings of fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trocar.backbones.precision import Wanted
from trocar.core.config import Config
from trocar.downstream.training.batches import Augmentation
from trocar.downstream.training.loss import ClassWeights


class FinetuneRecipe(Config):
    """AdamW, a linear warm-up, then a cosine to 0; the learning rate falls layer by layer towards the input.

    The defaults are near EndoViT's for phases of Cholec80 (AdamW 5e-4, layer decay 0.65, 15 epochs, balanced losses;
    its weight decay is 0); 0.75 and a weight decay of 0.05 are those of BEiT and MAE. Others: TeCNO's ResNet-50 has
    5e-4 and no layer decay; the ResNet-50 of SurgLatentGraph on Endoscapes has AdamW 1e-5, batch 32, 20 epochs and
    class weights 3.199, 4.462, 2.795.

    `lr` is the heads'; `warmup` is a share of all steps. `class_weights`: `none`, `balanced` (see
    `class_weights.balanced_weights`) or one number per class of the leading task, which leaves the partners unweighted.
    `labels`: of several annotators, their mean (`soft`) or 0 and 1 as they are scored (`rounded`). `augment`: null for
    none. `precision`: auto is that of the evaluation; bfloat16 computes the forward pass in it, weights and optimiser
    stay float32. `batch_norm`: `frozen` keeps the statistics of the pretraining, which small batches of neighbouring
    frames would spoil.

    `select: validation` keeps the epoch with the best headline of the leading task on the validation cases and stops
    after `patience` epochs without a better one; `fixed_epochs` runs all and keeps the last. Where a problem has no
    validation cases, `inner: holdout` finds the epoch on every fifth training case by name (the last, where there are
    fewer) and then trains anew on all of them for that many epochs of the same schedule; `inner: fixed_epochs` runs
    all of them. Test frames have no part in any choice.
    """

    lr: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    epochs: int = Field(default=15, ge=1)
    batch: int = Field(default=64, ge=2)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: ClassWeights = "none"
    labels: Literal["soft", "rounded"] = "soft"
    augment: Augmentation | None = Augmentation()
    precision: Wanted = "auto"
    batch_norm: Literal["train", "frozen"] = "train"
    select: Literal["validation", "fixed_epochs"] = "validation"
    inner: Literal["holdout", "fixed_epochs"] = "holdout"
    patience: int = Field(default=5, ge=1)
