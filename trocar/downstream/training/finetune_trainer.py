"""Fine-tuning of a whole network on rows of a data set, and its predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trocar.backbones.device import Precision, autocast, explained
from trocar.core.progress import track
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols.base import Goal
from trocar.downstream.training.batches import Cut, NetworkImages
from trocar.downstream.training.fit import (
    FitRecipe,
    Training,
    TrainingHistory,
    batches_of,
    epoch_batches,
    fit,
    parameter_groups,
)
from trocar.downstream.training.loss import make_criterion
from trocar.downstream.training.network import Classifier, FinetuneRecipe, hold_batch_norm
from trocar.errors import TrocarError

Score = Callable[[Floats], float]
"""Probabilities [n, K] of the leading task on the validation rows -> its headline; NaN where it is undefined."""


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
            remedy=self._remedy,
        )

    def predict(self, rows: Ints) -> dict[str, Floats]:
        """Probabilities float64 [n, K] by task name, frames as they are; leaves the network in eval mode."""
        self.network.eval()
        parts = [rows[i : i + self.recipe.batch] for i in range(0, len(rows), self.recipe.batch)]
        found: dict[str, list[Tensor]] = {goal.task.name: [] for goal in self.goals}
        with torch.inference_mode(), explained(self._remedy):
            for _, cut in track(self._cuts(parts, None), f"{self.name}: predict", len(parts)):
                for name, logits in self.forward(cut).items():
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


def _probabilities(logits: Tensor, single: bool) -> Floats:
    values = logits.double()
    found: Floats = (values.softmax(1) if single else values.sigmoid()).numpy()
    return found
