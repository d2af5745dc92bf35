"""The one training engine of heads and networks: fine-tuning, segmentation and temporal heads hand it their batches,
their loss and how an epoch is judged. Loop, schedule, choice of the epoch, early stop and seeding are here.

Everything random follows from keys of `core.random`: the order of an epoch and dropout from (seed, epoch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn

from trocar.backbones.device import explained
from trocar.backbones.weights_file import require_finite
from trocar.core.progress import Bar, progress_bar
from trocar.core.random import Permutation, torch_seeded
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.protocols.base import best_of
from trocar.errors import TrocarError

Batch = TypeVar("Batch")
Groups = list[dict[str, Any]]
Optimizer = Literal["adam", "adamw"]


@dataclass(frozen=True)
class FitRecipe:
    """How long and how fast. The learning rate rises linearly over the share `warmup` of all steps, then falls as a
    cosine to 0, or stays where it is (`cosine` False).

    `patience`: epochs without a better validation score after which training stops (None: never). `clip`: the largest
    norm of the gradient, 0 for none.
    """

    lr: float
    epochs: int
    warmup: float = 0.0
    cosine: bool = True
    patience: int | None = None
    optimizer: Optimizer = "adamw"
    clip: float = 0.0


@dataclass
class TrainingHistory:
    """One value per epoch run: mean training `loss`, and the score on `validation` (empty without one).

    `epoch`, counted from 1, is the one whose weights the network has.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    epoch: int = 0


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Remedies:
    """What errors say can be done: about too little memory, about a loss or weights that are not finite, and about a
    validation that never has a score.
    """

    memory: Callable[[], str] = _nothing
    diverged: str = "use a smaller lr"
    unscored: str = ""


@dataclass(frozen=True)
class Training(Generic[Batch]):
    """What is trained, on which batches, and how it is judged.

    `name` is what progress lines and errors call it. `groups` are those of the optimiser, each with its `weight_decay`
    and the factor `lr_scale` of the learning rate. `batches(epoch)` gives the `steps` batches of an epoch, `loss` the
    loss of one, a scalar on `device`. `validate` is asked after every epoch; larger is better, NaN is no score. Without
    it all epochs are run, or `last` of them on the same schedule, and the last is kept. `part` is the part of `network`
    that changes (None: all of it). `before_epoch` is called when the network is in training mode; `step_name` says what
    a step of an epoch was about.
    """

    name: str
    network: nn.Module
    groups: Groups
    recipe: FitRecipe
    seed: int
    device: str
    steps: int
    batches: Callable[[int], Iterable[Batch]]
    loss: Callable[[Batch], Tensor]
    validate: Callable[[], float] | None = None
    last: int | None = None
    part: nn.Module | None = None
    before_epoch: Callable[[], None] = lambda: None
    step_name: Callable[[int, int], str] = lambda epoch, step: ""
    remedies: Remedies = Remedies()


def fit(training: Training[Batch]) -> TrainingHistory:
    """Train in place. Afterwards the network has the weights of the first epoch with the best validation score, or of
    the last one run without validation, and is in evaluation mode.

    The caller's random numbers are as they were; on a CPU a run repeats bit for bit at the same number of threads.
    Raises TrocarError for a loss or weights that are not finite, a validation without a score in any epoch, and too
    little memory.
    """
    recipe, part = training.recipe, training.part or training.network
    history, best = TrainingHistory(), dict[str, Tensor]()
    optimizer = make_optimizer(training)
    epochs = training.last or recipe.epochs
    with explained(training.remedies.memory), progress_bar(training.name, epochs * training.steps) as bar:
        for epoch in range(epochs):
            with torch_seeded(training.seed, "fit", epoch, device=training.device):
                history.loss.append(_epoch(training, optimizer, epoch, bar))
            if training.validate is None:
                history.epoch = epoch + 1
                continue
            history.validation.append(training.validate())
            if best_of(history.validation) == epoch:
                history.epoch = epoch + 1
                best = {name: value.detach().cpu().clone() for name, value in part.state_dict().items()}
            if recipe.patience is not None and epoch + 1 - history.epoch >= recipe.patience:
                break
    if training.validate is not None and not best:
        asked = "the validation score is NaN in every epoch: have the validation cases labels to score?"
        raise TrocarError(f"{training.name}: {asked} {training.remedies.unscored}".rstrip())
    if best:
        part.load_state_dict(best)
    require_finite(part.state_dict(), f"{training.name} ({training.remedies.diverged})")
    training.network.eval()
    return history


def make_optimizer(training: Training[Batch]) -> torch.optim.Optimizer:
    """With the learning rate of the recipe; `take_step` sets that of each step."""
    kind = torch.optim.Adam if training.recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(training.groups, lr=training.recipe.lr)


def take_step(training: Training[Batch], optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> Tensor:
    """Step number `step` of the whole training, from 0; its loss, on the device. The host waits for nothing."""
    recipe = training.recipe
    factor = rate(step, recipe.epochs * training.steps, recipe.warmup, recipe.cosine)
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * group["lr_scale"] * factor
    loss = training.loss(batch)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    if recipe.clip:
        nn.utils.clip_grad_norm_(training.network.parameters(), recipe.clip)
    optimizer.step()
    return loss.detach()


def _epoch(training: Training[Batch], optimizer: torch.optim.Optimizer, epoch: int, bar: Bar) -> float:
    """One pass over the batches; their mean loss."""
    training.network.train()
    training.before_epoch()
    found = []
    for number, batch in enumerate(training.batches(epoch)):
        found.append(take_step(training, optimizer, batch, epoch * training.steps + number))
        bar.advance(f"epoch {epoch + 1} of {training.recipe.epochs}")
    losses = torch.stack(found).double().cpu()  # asked for once: a GPU is not waited for at every step
    wrong = torch.nonzero(~torch.isfinite(losses))
    if len(wrong):
        number = int(wrong[0])
        said = training.step_name(epoch, number)
        where = f"epoch {epoch + 1}, {said}" if said else f"epoch {epoch + 1}"
        raise TrocarError(
            f"{training.name}: the loss of {where} is {losses[number].item()}; {training.remedies.diverged}"
        )
    return float(losses.mean())


def rate(step: int, total: int, warmup: float, cosine: bool = True) -> float:
    """Factor of the learning rate: linear to 1 over the first `warmup` x total steps, then a cosine towards 0, or 1."""
    ramp = round(warmup * total)
    if step < ramp:
        return (step + 1) / (ramp + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp))) if cosine else 1.0


def epoch_order(count: int, seed: int, epoch: int) -> Ints:
    """int64 [count]: in which order an epoch takes what there is to learn from."""
    return Permutation(count, seed, "fit", epoch)(np.arange(count))


def epoch_batches(rows: Ints, batch: int, seed: int, epoch: int) -> list[Ints]:
    """Every row once, in batches that differ by at most one row: no batch norm over a small rest. A single row is there
    twice, since batch norm cannot do with one.

    Which rows meet follows from (seed, epoch); inside a batch they rise, as they lie in the file.
    """
    order = rows[epoch_order(len(rows), seed, epoch)]
    parts = np.array_split(order, batches_of(len(rows), batch))
    return [np.sort(part if len(part) > 1 else np.append(part, order[0])) for part in parts]


def batches_of(count: int, batch: int) -> int:
    """Number of batches of an epoch over `count` rows."""
    return math.ceil(count / batch)


def parameter_groups(
    head: nn.Module, backbone: nn.Module | None, weight_decay: float, layer_decay: float = 1.0
) -> Groups:
    """Groups for an optimiser with `lr_scale`: 1 for the head, times `layer_decay` for every layer of the backbone
    further down. None is a frozen backbone.

    Layers are timm's (the stem, then block by block), as in BEiT and MAE. It gives the last block of a backbone without
    classifier the scale of the classifier; the head is one above that. In a model whose final norm is a layer of its
    own (ConvNeXt's, unused here), blocks are one lower yet. Biases, norms and what the backbone itself names (position
    table, class token) are not decayed.
    """
    own = list(head.parameters())
    groups: Groups = [
        {"params": [p for p in own if p.ndim > 1], "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    if backbone is None:
        return groups
    named: Any = getattr(backbone, "no_weight_decay", set)
    layers = param_groups_layer_decay(
        backbone, weight_decay, no_weight_decay_list=sorted(named()), layer_decay=layer_decay
    )
    return groups + [{**layer, "lr_scale": layer["lr_scale"] * layer_decay} for layer in layers]
