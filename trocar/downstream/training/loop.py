"""Train a network on rows of a data set, keep the weights of its best epoch, and predict with it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor

from trocar.backbones.device import Precision, autocast, explained
from trocar.core.progress import track
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.training.batches import Cut, NetworkImages, epoch_batches
from trocar.downstream.training.loss import Goal, make_criterion
from trocar.downstream.training.network import Classifier, FinetuneRecipe, hold_batch_norm, parameter_groups
from trocar.errors import TrocarError

Score = Callable[[Floats], float]
"""Probabilities [n, K] of the leading task on the validation rows -> its headline; NaN where it is undefined."""


@dataclass
class TrainingHistory:
    """One value per epoch run: mean training `loss`, and the headline on `validation` (empty without such rows).

    `epoch`, counted from 1, is the one whose weights the network has.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    epoch: int = 0


@dataclass(frozen=True)
class FinetuneTrainer:
    """What stays the same through a training; `seed` decides order, augmentation and dropout. `precision` is what the
    recipe's is here.
    """

    network: Classifier
    goals: Sequence[Goal]
    images: NetworkImages
    recipe: FinetuneRecipe
    seed: int
    precision: Precision = "float32"

    def fit(self, rows: Ints, val: Ints, score: Score, last: int | None = None) -> TrainingHistory:
        """Train in place on `rows`; afterwards the network has the kept weights and is in eval mode.

        With `val` rows the first epoch of the best score is kept, else the last one run: number `last` of the schedule
        (None: all epochs). The caller's random numbers are as they were; on a CPU a run repeats bit for bit at the same
        number of threads. Raises TrocarError for fewer than two rows, a loss that is not finite, or too little memory.
        """
        if len(rows) < 2:
            raise TrocarError(f"fine-tuning needs at least 2 labelled training frames, there are {len(rows)}")
        history, best = TrainingHistory(), {}
        run = _FinetuneRun(self, rows)
        with seeded(self.seed, self.images.device), explained(self._remedy):
            for epoch in range(last or self.recipe.epochs):
                history.loss.append(run.epoch(epoch))
                if len(val):
                    history.validation.append(score(self.predict(val)[self.goals[0].task.name]))
                if len(val) and _leads(history.validation):
                    history.epoch, best = epoch + 1, _copy(self.network)
                if len(val) and epoch + 1 - history.epoch >= self.recipe.patience:
                    break
        if best:
            self.network.load_state_dict(best)
        history.epoch = history.epoch or len(history.loss)
        self.network.eval()
        return history

    def predict(self, rows: Ints) -> dict[str, Floats]:
        """Probabilities float64 [n, K] by task name, frames as they are; leaves the network in eval mode."""
        self.network.eval()
        parts = [rows[i : i + self.recipe.batch] for i in range(0, len(rows), self.recipe.batch)]
        found: dict[str, list[Tensor]] = {goal.task.name: [] for goal in self.goals}
        with torch.inference_mode(), explained(self._remedy):
            for _, cut in track(self._cuts(parts, None), "predict", len(parts)):
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


class _FinetuneRun:
    """The optimiser and where it is in its schedule."""

    def __init__(self, trainer: FinetuneTrainer, rows: Ints) -> None:
        recipe, device = trainer.recipe, trainer.images.device
        self.trainer, self.rows, self.step = trainer, rows, 0
        lead = trainer.goals[0]
        self.criteria = {
            goal.task.name: make_criterion(
                goal,
                rows,
                recipe.class_weights if goal is lead or isinstance(recipe.class_weights, str) else "none",
                recipe.label_smoothing,
                device,
            )
            for goal in trainer.goals
        }
        groups = parameter_groups(trainer.network, recipe.weight_decay, recipe.layer_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.lr)
        total = recipe.epochs * math.ceil(len(rows) / recipe.batch)
        warmup = round(recipe.warmup * total)
        self.schedule = CosineLRScheduler(
            self.optimiser,
            t_initial=max(1, total - warmup),
            warmup_t=warmup,
            warmup_lr_init=recipe.lr / max(1, warmup),
            warmup_prefix=True,
            t_in_epochs=False,
        )

    def epoch(self, epoch: int) -> float:
        """One pass over the rows; the mean loss of its batches."""
        trainer = self.trainer
        trainer.network.train()
        if trainer.recipe.batch_norm == "frozen":
            hold_batch_norm(trainer.network)
        parts = epoch_batches(self.rows, trainer.recipe.batch, trainer.seed, epoch)
        name = f"fine-tune {epoch + 1}/{trainer.recipe.epochs}"
        losses = [self._step(rows, cut) for rows, cut in track(trainer._cuts(parts, epoch), name, len(parts))]
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise TrocarError(f"fine-tuning: the loss of epoch {epoch + 1} is {loss}; use a smaller lr")
        return loss

    def _step(self, rows: Ints, cut: Cut) -> Tensor:
        self.schedule.step_update(self.step)
        self.step += 1
        logits = self.trainer.forward(cut)
        losses = [
            self.criteria[goal.task.name](logits[goal.task.name], goal.targets[rows]) for goal in self.trainer.goals
        ]
        # EndoNet weighs its two tasks alike.
        loss = torch.stack(losses).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()


@contextlib.contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """torch's random numbers follow from `seed` inside, and are as they were afterwards."""
    devices = range(torch.cuda.device_count()) if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _leads(scores: list[float]) -> bool:
    """Whether the last score is better than all before it; an undefined one never is."""
    known = [score for score in scores[:-1] if not math.isnan(score)]
    return not math.isnan(scores[-1]) and all(scores[-1] > score for score in known)


def _copy(network: Classifier) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _probabilities(logits: Tensor, single: bool) -> Floats:
    values = logits.double()
    found: Floats = (values.softmax(1) if single else values.sigmoid()).numpy()
    return found
