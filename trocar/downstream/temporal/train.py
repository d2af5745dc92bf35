"""Train a temporal head on cached features of whole cases, and predict with it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocar.backbones.device import explained
from trocar.core.resources import torch_threads
from trocar.data.views.pixel_ops import sent
from trocar.downstream.labels import Kind
from trocar.downstream.temporal.config import TemporalConfig
from trocar.downstream.temporal.head import Head, HeadRecipe, probabilities
from trocar.downstream.temporal.loss import TemporalLoss, build_loss
from trocar.downstream.temporal.sequence import (
    Features,
    Sequence,
    Standard,
    check_features,
    check_targets,
    fit_standard,
)
from trocar.errors import ConfigError, TrocarError

SHORT = 512  # frames: up to here the threads of one step cost more than they give

Score = Callable[[list[Features]], float]


@dataclass(frozen=True)
class Fitted:
    """A trained head. `epoch` is the one that was kept, from 1; `losses` and `scores` have one value per
    epoch run.

    `scores` is empty without selection on validation.
    """

    config: TemporalConfig
    head: Head
    standard: Standard
    kind: Kind
    device: str
    threads: int
    epoch: int
    losses: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def causal(self) -> bool:
        """True for an online head: report online and offline numbers apart."""
        return self.head.causal

    def predict(self, sequence: Sequence) -> Features:
        """Probabilities float32 [T, K] of the last stage, for every frame of the case; its targets are not
        looked at.

        Raises TrocarError for features that are not finite or of another backbone.
        """
        check_features(sequence, len(self.standard.mean))
        with torch_threads(self.threads):
            return _predict(self.head, self.standard, sequence, self.kind, self.device)

    def detail(self) -> dict[str, Any]:
        """What was trained and chosen, as JSON values."""
        return {
            "head": self.config.head.model_dump(mode="json"),
            "online": self.causal,
            "recipe": asdict(self.config.recipe()),
            "loss": self.config.loss.model_dump(mode="json"),
            "select": self.config.select,
            "epoch": self.epoch,
            "losses": list(self.losses),
            "validation": list(self.scores),
        }


def fit_temporal(
    config: TemporalConfig,
    train: Many[Sequence],
    validation: Many[Sequence] | None,
    kind: Kind,
    classes: int,
    seed: int,
    score: Score | None = None,
    device: str = "cpu",
) -> Fitted:
    """Train on whole cases, one case a step, in an order drawn anew every epoch.

    `score` gets the predictions of all `validation` cases, [T, K] each (unlabelled frames included) and in
    their order, after every epoch; larger is better, of equal epochs the first is kept. With `select:
    fixed_epochs` neither is used. Features are standardised over the training frames. Training cases without
    any label are left out of the steps. Everything random comes from `seed`, and the caller's random numbers
    are untouched; on the CPU a run repeats bit for bit at the same number of threads.

    Raises ConfigError for settings that do not fit the data and for masks, which have no label a frame;
    TrocarError for unusable features or targets and for a loss or scores that are not finite.
    """
    if kind == "mask":
        raise ConfigError("a temporal head predicts labels of whole frames: there is none for masks")
    held_out = _held_out(config, validation, score)
    labelled = _checked(train, held_out, kind, classes)
    dimensions = train[0].features.shape[1]
    standard = fit_standard(train)
    loss = build_loss(config.loss, [s.targets for s in train], classes, kind)
    longest = max(len(s) for s in (*train, *held_out))
    threads = config.threads or (1 if longest <= SHORT else torch.get_num_threads())
    remedy = (
        f"A temporal head takes a whole operation at a time, here up to {longest} frames: take a smaller head, fewer "
        "frames (fps), or device=cpu"
    )
    with torch_threads(threads), _seeded(seed, device), explained(lambda: remedy):
        head = config.head.build(dimensions, classes, kind).to(device)
        run = _TemporalTraining(config, head, standard, loss, kind, device)
        kept = run.fit(labelled, held_out, score, np.random.default_rng(seed))
    return Fitted(config, head, standard, kind, device, threads, kept, tuple(run.losses), tuple(run.scores))


class _TemporalTraining:
    """One training: the optimiser's state, and what was seen per epoch."""

    def __init__(
        self, config: TemporalConfig, head: Head, standard: Standard, loss: TemporalLoss, kind: Kind, device: str
    ) -> None:
        self.config, self.recipe = config, config.recipe()
        self.head, self.standard, self.kind, self.device = head, standard, kind, device
        self.loss = loss.to(device)
        self.optimiser = _optimiser(self.recipe, head)
        self.losses: list[float] = []
        self.scores: list[float] = []

    def fit(
        self, train: Many[Sequence], held_out: Many[Sequence], score: Score | None, generator: np.random.Generator
    ) -> int:
        """Leaves the head with the weights of the epoch it returns, in evaluation mode."""
        best: tuple[float, int, dict[str, Tensor]] | None = None
        for epoch in range(1, self.recipe.epochs + 1):
            order = generator.permutation(len(train))
            self.losses.append(float(np.mean([self._step(train[i], epoch) for i in order])))
            if score is None or not held_out:
                continue
            self.scores.append(score([self._predict(sequence) for sequence in held_out]))
            if best is None or self.scores[-1] > best[0] or math.isnan(best[0]):
                best = (self.scores[-1], epoch, copy.deepcopy(self.head.state_dict()))
            if self.config.patience is not None and epoch - best[1] >= self.config.patience:
                break
        self.head.eval()
        if best is None:
            return self.recipe.epochs
        if math.isnan(best[0]):
            raise TrocarError("the validation score is NaN in every epoch: have the validation cases labels to score?")
        self.head.load_state_dict(best[2])
        return best[1]

    def _step(self, sequence: Sequence, epoch: int) -> float:
        features = self._augment(_tensor(self.standard(sequence.features), self.device))
        targets = sequence.targets.astype(np.int64) if self.kind == "multiclass" else sequence.targets
        loss = self.loss(self.head(features), targets)
        value = loss.item()
        if not math.isfinite(value):
            raise TrocarError(f"epoch {epoch}, case {sequence.case!r}: the loss is {value}; lower lr or set clip: 1")
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.head.parameters(), self.recipe.clip)
        self.optimiser.step()
        return value

    def _augment(self, features: Tensor) -> Tensor:
        if self.config.feature_noise:
            features = features + self.config.feature_noise * torch.randn_like(features)
        kept = F.dropout(torch.ones_like(features[:1]), self.recipe.feature_dropout)
        return features * kept

    def _predict(self, sequence: Sequence) -> Features:
        return _predict(self.head, self.standard, sequence, self.kind, self.device)


def _held_out(config: TemporalConfig, validation: Many[Sequence] | None, score: Score | None) -> Many[Sequence]:
    """The cases that select the epoch: none with fixed epochs."""
    if config.select == "fixed_epochs":
        if config.patience is not None:
            raise ConfigError("patience needs select: validation; with fixed_epochs nothing is validated")
        return []
    if not validation or score is None:
        raise ConfigError(
            "select: validation needs validation cases and a score; without them use select: fixed_epochs"
        )
    return validation


def _checked(train: Many[Sequence], held_out: Many[Sequence], kind: Kind, classes: int) -> list[Sequence]:
    """The training cases that have a label, after all cases are found to be sound."""
    if not train:
        raise TrocarError("no training cases")
    for sequence in (*train, *held_out):
        check_features(sequence, train[0].features.shape[-1])
        check_targets(sequence, kind, classes)
    labelled = [s for s in train if (s.targets >= 0).any()]
    if not labelled:
        raise TrocarError(f"none of the {len(train)} training cases has a label")
    return labelled


def _optimiser(recipe: HeadRecipe, head: Head) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def _predict(head: Head, standard: Standard, sequence: Sequence, kind: Kind, device: str) -> Features:
    with evaluating(head), torch.no_grad():
        logits = head(_tensor(standard(sequence.features), device))[-1]
        found: Features = probabilities(logits, kind, dim=1).float().cpu().numpy()
    return found


def _tensor(features: Features, device: str) -> Tensor:
    return sent(features, torch.device(device))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode of before after it, also after an error."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    gpus = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield
