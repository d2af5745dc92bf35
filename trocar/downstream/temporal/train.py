"""The settings of a temporal head; how it is trained on cached features of whole cases, and how it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trocar.core.config import Config
from trocar.core.random import torch_seeded
from trocar.core.resources import torch_threads
from trocar.data.views.pixel_ops import sent
from trocar.downstream.labels import Kind
from trocar.downstream.temporal.head import (
    AnyHead,
    Features,
    Head,
    HeadConfig,
    HeadRecipe,
    Optimiser,
    Sequence,
    Standard,
    check_features,
    check_targets,
    fit_standard,
    probabilities,
)
from trocar.downstream.temporal.heads.mstcn import MsTcnConfig
from trocar.downstream.training.fit import FitRecipe, Remedies, Training, epoch_order, fit
from trocar.downstream.training.loss import LossConfig, TemporalLoss, build_loss
from trocar.errors import ConfigError, TrocarError

SHORT = 512  # frames: up to here the threads of one step cost more than they give

Score = Callable[[list[Features]], float]


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
    name: str = "temporal head",
) -> Fitted:
    """Train on whole cases, one case a step, in an order drawn anew every epoch.

    `score` gets the predictions of all `validation` cases, [T, K] each (unlabelled frames included) and in
    their order, after every epoch; larger is better, of equal epochs the first is kept. With `select:
    fixed_epochs` neither is used. Features are standardised over the training frames. Training cases without
    any label are left out of the steps. Everything random comes from `seed`, and the caller's random numbers
    are untouched; on the CPU a run repeats bit for bit at the same number of threads. `name` is what progress
    lines and errors call it.

    Raises ConfigError for settings that do not fit the data and for masks, which have no label a frame;
    TrocarError for unusable features or targets and for a loss or scores that are not finite.
    """
    if kind == "mask":
        raise ConfigError("a temporal head predicts labels of whole frames: there is none for masks")
    held_out = _held_out(config, validation, score)
    labelled = _checked(train, held_out, kind, classes)
    standard = fit_standard(train)
    loss = build_loss(config.loss, [s.targets for s in train], classes, kind)
    longest = max(len(s) for s in (*train, *held_out))
    threads = config.threads or (1 if longest <= SHORT else torch.get_num_threads())
    with torch_threads(threads):
        with torch_seeded(seed, "temporal head", device=device):
            head = config.head.build(train[0].features.shape[1], classes, kind).to(device)

        def validate() -> float:
            assert score is not None
            return score([_predict(head, standard, sequence, kind, device) for sequence in held_out])

        training = head_training(
            config, head, standard, loss, labelled, kind, seed, device, name, validate if held_out else None
        )
        history = fit(training)
    losses, scores = tuple(history.loss), tuple(history.validation)
    return Fitted(config, head, standard, kind, device, threads, history.epoch, losses, scores)


def head_training(
    config: TemporalConfig,
    head: Head,
    standard: Standard,
    loss: TemporalLoss,
    train: Many[Sequence],
    kind: Kind,
    seed: int,
    device: str,
    name: str,
    validate: Callable[[], float] | None,
) -> Training[Sequence]:
    """What the engine is given. A batch is a case."""
    recipe, criterion = config.recipe(), loss.to(device)

    def cases(epoch: int) -> list[Sequence]:
        return [train[place] for place in epoch_order(len(train), seed, epoch)]

    def loss_of(sequence: Sequence) -> Tensor:
        features = _tensor(standard(sequence.features), device)
        if config.feature_noise:
            features = features + config.feature_noise * torch.randn_like(features)
        kept = F.dropout(torch.ones_like(features[:1]), recipe.feature_dropout)
        targets = sequence.targets.astype(np.int64) if kind == "multiclass" else sequence.targets
        return criterion(head(features * kept), targets)

    longest = max(len(sequence) for sequence in train)
    return Training(
        name=name,
        network=head,
        groups=[{"params": list(head.parameters()), "weight_decay": recipe.weight_decay, "lr_scale": 1.0}],
        recipe=FitRecipe(
            recipe.lr,
            recipe.epochs,
            cosine=False,
            patience=config.patience,
            optimizer=recipe.optimiser,
            clip=recipe.clip,
        ),
        seed=seed,
        device=device,
        steps=len(train),
        batches=cases,
        loss=loss_of,
        validate=validate,
        step_name=lambda epoch, step: f"case {cases(epoch)[step].case!r}",
        remedies=Remedies(
            lambda: (
                f"A temporal head takes a whole operation at a time, here up to {longest} frames: take a smaller head, "
                "fewer frames (fps), or device=cpu"
            ),
            "use a smaller lr or set clip: 1",
            "With select: fixed_epochs no score is needed",
        ),
    )


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
