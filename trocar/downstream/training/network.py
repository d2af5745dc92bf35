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

    `inner: holdout` takes every fifth training case by name (the last, where there are fewer) and trains anew for the
    epochs of the best, on the same schedule. Test frames have no part in any choice.
    """

    lr: float = Field(default=5e-4, gt=0, description="peak learning rate of the heads")
    weight_decay: float = Field(default=0.05, ge=0, description="weight decay of AdamW")
    layer_decay: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="factor on the learning rate of each layer of the backbone from the output to the input, above 0 "
        "to 1",
    )
    epochs: int = Field(default=15, ge=1, description="epochs, the most where `select` or `inner` choose")
    batch: int = Field(default=64, ge=2, description="frames per step, at least 2")
    warmup: float = Field(
        default=0.1, ge=0, lt=1, description="share of all steps in which the learning rate rises, 0 to below 1"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of each label that is spread over all classes, 0 to below 1"
    )
    class_weights: ClassWeights = Field(
        default="none",
        description="none, balanced (by the inverse frequency), or a number per class of the leading task, which "
        "leaves the partners unweighted",
    )
    labels: Literal["soft", "rounded"] = Field(
        default="soft",
        description="labels of several annotators: their mean (soft), or 0 and 1 as they are scored (rounded)",
    )
    augment: Augmentation | None = Field(
        default=Augmentation(), description="what a training frame goes through; null: nothing"
    )
    precision: Wanted = Field(
        default="auto",
        description="what the forward pass computes in; auto: as the evaluation; weights and optimiser stay float32",
    )
    batch_norm: Literal["train", "frozen"] = Field(
        default="train",
        description="frozen: keep the statistics of the pretraining, which small batches of neighbouring frames would "
        "spoil",
    )
    select: Literal["validation", "fixed_epochs"] = Field(
        default="validation",
        description="validation: keep the epoch with the best headline of the leading task on the validation cases; "
        "fixed_epochs: train all and keep the last",
    )
    inner: Literal["holdout", "fixed_epochs"] = Field(
        default="holdout",
        description="without validation cases: holdout finds the epoch on every fifth training case and trains anew "
        "on all for that many; fixed_epochs trains all epochs",
    )
    patience: int = Field(
        default=5, ge=1, description="epochs without a better validation score after which training stops"
    )


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
