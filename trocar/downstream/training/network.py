"""A backbone with one linear head per task.

The settings of fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn

from trocar.backbones.device import Wanted
from trocar.core.config import Config
from trocar.downstream.training.batches import Augmentation
from trocar.downstream.training.loss import ClassWeights, Goal


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


class Classifier(nn.Module):
    """`backbone` gives pooled features [b, D]; every task has a linear head on them.

    Tasks that are learned together are connected as in EndoNet (Twinanda et al., arXiv:1602.03012): tools and other
    tasks of several labels a frame see the features, a task of one label a frame (the phase) sees the features beside
    the logits of all those. EndoNet is this with AlexNet; its head is a fully connected layer per task too.
    """

    def __init__(self, backbone: nn.Module, goals: Sequence[Goal], size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.several = [goal.task.name for goal in goals if goal.space.kind == "multilabel"]
        self.single = [goal.task.name for goal in goals if goal.space.kind == "multiclass"]
        classes = {goal.task.name: len(goal.space.classes) for goal in goals}
        width = _width(backbone, size)
        wide = width + sum(classes[name] for name in self.several)
        self.heads = nn.ModuleDict(
            {name: _head(wide if name in self.single else width, count) for name, count in classes.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised float [b, 3, S, S] -> logits [b, K] by task name."""
        features = self.backbone(images)
        logits = {name: self.heads[name](features) for name in self.several}
        beside = torch.cat([features, *logits.values()], dim=1)
        return logits | {name: self.heads[name](beside) for name in self.single}


def parameter_groups(network: Classifier, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser with `lr_scale`: 1 for the heads, times `layer_decay` for every layer further down.

    Layers are timm's (the stem, then block by block), as in BEiT and MAE. Biases, norms and what the backbone itself
    names (position table, class token) are not decayed.
    """
    named = getattr(network.backbone, "no_weight_decay", set)
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        network.backbone, weight_decay, no_weight_decay_list=sorted(named()), layer_decay=layer_decay
    )
    for group in groups:  # timm gives a backbone without classifier's last block the scale of the classifier
        group["lr_scale"] *= layer_decay
    heads = list(network.heads.parameters())
    for decay, chosen in ((weight_decay, [p for p in heads if p.ndim > 1]), (0.0, [p for p in heads if p.ndim == 1])):
        groups.append({"params": chosen, "weight_decay": decay, "lr_scale": 1.0})
    return groups


def hold_batch_norm(network: nn.Module) -> None:
    """Batch norm keeps the statistics it came with, although the network is in training mode."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _width(backbone: nn.Module, size: int) -> int:
    """Asked of the network itself: `num_features` is not what some of timm's models give."""
    with torch.inference_mode():
        return int(backbone.eval()(torch.zeros(1, 3, size, size)).shape[1])


def _head(width: int, classes: int) -> nn.Linear:
    head = nn.Linear(width, classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head
