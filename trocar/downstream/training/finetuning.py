"""Fine-tuning of a whole network on rows of a data set: its settings, a backbone with one linear head per task, how it
is trained, and its predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trocar.backbones.device import Halves, Precision, Wanted, autocast, explained
from trocar.backbones.lora import LoraConfig
from trocar.backbones.preprocess import prediction_batch
from trocar.core.config import Config
from trocar.core.progress import track
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols.base import Goal
from trocar.downstream.training.batches import Augmentation, Cut, NetworkImages
from trocar.downstream.training.fit import (
    FitRecipe,
    Remedies,
    Training,
    TrainingHistory,
    batches_of,
    epoch_batches,
    fit,
    parameter_groups,
)
from trocar.downstream.training.loss import ClassWeights, make_criterion
from trocar.errors import TrocarError

Score = Callable[[Floats], float]
"""Probabilities [n, K] of the leading task on the validation rows -> its headline; NaN where it is undefined."""


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
    lora: LoraConfig | None = Field(
        default=None,
        description="low-rank factors that learn in the place of the backbone's weights, with the learning rate of "
        "their layer; null: the weights learn",
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


def hold_batch_norm(network: nn.Module) -> None:
    """Batch norm keeps the statistics it came with, although the network is in training mode."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@dataclass(frozen=True)
class FinetuneTrainer:
    """What stays the same through a training; `seed` decides order, augmentation and dropout. `precision` is what the
    recipe's is here, `name` what progress lines and errors call it.
    """

    network: Classifier
    goals: Sequence[Goal]
    images: NetworkImages
    recipe: FinetuneRecipe
    seed: int
    precision: Precision = "float32"
    name: str = "fine-tuning"

    def fit(self, rows: Ints, val: Ints, score: Score, last: int | None = None) -> TrainingHistory:
        """Train in place on `rows`; afterwards the network has the kept weights and is in eval mode.

        With `val` rows the first epoch of the best score is kept, else the last one run: number `last` of the schedule
        (None: all epochs). Raises TrocarError for fewer than two rows, and as `training.fit`.
        """
        if len(rows) < 2:
            raise TrocarError(f"fine-tuning needs at least 2 labelled training frames, there are {len(rows)}")
        lead = self.goals[0].task.name
        return fit(self.training(rows, (lambda: score(self.predict(val)[lead])) if len(val) else None, last))

    def training(
        self, rows: Ints, validate: Callable[[], float] | None = None, last: int | None = None
    ) -> Training[tuple[Ints, Cut]]:
        """What the engine is given. A batch is rows of the table and their frames."""
        recipe, device = self.recipe, self.images.device
        lead, *others = self.goals
        shared = recipe.class_weights if isinstance(recipe.class_weights, str) else "none"
        wanted = {lead.task.name: recipe.class_weights, **{goal.task.name: shared for goal in others}}
        criteria = {
            goal.task.name: make_criterion(goal, rows, wanted[goal.task.name], recipe.label_smoothing, device)
            for goal in self.goals
        }

        def loss(batch: tuple[Ints, Cut]) -> Tensor:
            chosen, cut = batch
            logits = self.forward(cut)
            losses = [criteria[g.task.name](logits[g.task.name], g.targets[chosen]) for g in self.goals]
            return torch.stack(losses).sum()  # EndoNet weighs its two tasks alike

        def frozen_norms() -> None:
            if recipe.batch_norm == "frozen":
                hold_batch_norm(self.network)

        groups = parameter_groups(self.network.heads, self.network.backbone, recipe.weight_decay, recipe.layer_decay)
        return Training(
            name=self.name,
            network=self.network,
            groups=groups,
            recipe=FitRecipe(recipe.lr, recipe.epochs, recipe.warmup, patience=recipe.patience),
            seed=self.seed,
            device=device,
            steps=batches_of(len(rows), recipe.batch),
            batches=lambda epoch: self._cuts(epoch_batches(rows, recipe.batch, self.seed, epoch), epoch),
            loss=loss,
            validate=validate,
            last=last,
            before_epoch=frozen_norms,
            remedies=Remedies(self._remedy, unscored="With select: fixed_epochs no score is needed"),
        )

    def predict(self, rows: Ints) -> dict[str, Floats]:
        """Probabilities float64 [n, K] by task name, frames as they are; leaves the network in eval mode."""
        self.network.eval()
        at_once = prediction_batch(self.recipe.batch, self.images.device)
        parts = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
        device = torch.device(self.images.device)
        halves = Halves(device, device.type == "cuda")
        found: dict[str, list[Tensor]] = {goal.task.name: [] for goal in self.goals}
        with torch.inference_mode(), explained(self._remedy):
            for _, cut in track(self._cuts(parts, None), f"{self.name}: predict", len(parts)):
                for part in halves(lambda images: self.forward(Cut(images, None)), cut.images):
                    for name, logits in part.items():
                        found[name].append(logits.cpu())
        kinds = {goal.task.name: goal.space.kind for goal in self.goals}
        return {name: _probabilities(torch.cat(logits), kinds[name] == "multiclass") for name, logits in found.items()}

    def forward(self, cut: Cut) -> dict[str, Tensor]:
        """Logits float32 [b, K] by task name."""
        images = self.images.finish(cut)
        with autocast(images.device, self.precision):
            logits: dict[str, Tensor] = self.network(images)
        return {name: values.float() for name, values in logits.items()}

    def _cuts(self, parts: Sequence[Ints], epoch: int | None) -> Iterator[tuple[Ints, Cut]]:
        return self.images.batches(parts, epoch)

    def _remedy(self) -> str:
        return (
            f"Fine-tuning takes {self.recipe.batch} frames at a time, in {self.precision}: lower its batch (now "
            f"{self.recipe.batch})"
        )


def _width(backbone: nn.Module, size: int) -> int:
    """Asked of the network itself: `num_features` is not what some of timm's models give."""
    with torch.inference_mode():
        return int(backbone.eval()(torch.zeros(1, 3, size, size)).shape[1])


def _head(width: int, classes: int) -> nn.Linear:
    head = nn.Linear(width, classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def _probabilities(logits: Tensor, single: bool) -> Floats:
    values = logits.double()
    found: Floats = (values.softmax(1) if single else values.sigmoid()).numpy()
    return found
