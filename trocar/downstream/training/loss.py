"""Losses of heads: cross-entropy, or binary cross-entropies, with class weights and unlabelled frames left out.

Class weights make rare classes count as much as frequent ones. Temporal heads add a penalty on jumps between
neighbouring frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trocar.core.config import Config
from trocar.data.views.pixel_ops import sent
from trocar.downstream.labels import Kind
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols.base import Goal
from trocar.downstream.temporal.head import Numbers
from trocar.errors import ConfigError

ClassWeights = Literal["none", "balanced"] | tuple[float, ...]


@dataclass(frozen=True)
class Criterion:
    """Loss of one task's logits [b, K]; `weights` float32 [K] or None, `smoothing` of the labels in 0..1.

    One label a frame, targets int64 [b]: sum_i w_{y_i} CE_i / sum_i w_{y_i}, torch's weighted mean. Several, targets
    [b, K] in 0..1: the mean over frames and classes of -(w_c y log p + (1 - y) log(1 - p)); smoothed y is
    (1 - s) y + s / 2. A frame whose target is below 0 counts for nothing; 0 where no frame is labelled.
    """

    kind: Kind
    weights: Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Ints | Floats) -> Tensor:
        """A scalar. The targets come from the host: which frames are labelled is known there, and asking a GPU for it
        would wait for all that is queued.
        """
        known = np.flatnonzero(targets >= 0 if targets.ndim == 1 else (targets >= 0).all(1))
        if not len(known):
            return logits.sum() * 0.0  # the mean over no frame would be 0 / 0
        if len(known) < len(targets):
            logits, targets = logits[sent(known, logits.device)], targets[known]
        labels = sent(targets, logits.device)
        if self.kind == "multiclass":
            return F.cross_entropy(logits, labels, self.weights, label_smoothing=self.smoothing)
        goals = labels.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, goals, pos_weight=self.weights)


def make_criterion(goal: Goal, rows: Ints, wanted: ClassWeights, smoothing: float, device: str) -> Criterion:
    """The loss of a task for its training `rows`. Raises ConfigError for weights that are not one per class."""
    kind, classes = goal.space.kind, len(goal.space.classes)
    if wanted == "none":
        return Criterion(kind, None, smoothing)
    values: Floats | Sequence[float]
    if wanted == "balanced":
        values = balanced_weights(goal.targets[goal.known(rows)], classes)
    elif len(wanted) != classes or min(wanted) <= 0:
        raise ConfigError(f"class_weights = {list(wanted)}: expected {classes} positive numbers, one per class")
    else:
        values = [float(value) for value in wanted]
    return Criterion(kind, torch.tensor(values, dtype=torch.float32, device=device), smoothing)


def balanced_weights(targets: Ints | Floats, classes: int) -> Floats:
    """float64 [K] from training labels [n] or [n, K]; entries below 0 are unlabelled and not counted.

    One label a frame: median frequency balancing, w_c = median over present classes of n / n_c (Eigen and Fergus,
    arXiv:1411.4734, with frequencies over all frames), as TeCNO has it. Inverse frequencies such as scikit-learn's
    `balanced` are these times a number, which the weighted mean of a cross-entropy takes out. Several labels: negatives
    / positives of each class; soft labels count as shares. A class without a positive, which no training frame can
    weigh, gets 1.
    """
    known = targets >= 0
    if targets.ndim == 1:
        counts = np.bincount(targets[known].astype(np.int64), minlength=classes).astype(np.float64)
        goal = np.full(classes, np.median(counts[counts > 0]) if counts.any() else 0.0)
    else:
        counts = np.where(known, targets, 0).astype(np.float64).sum(0)
        goal = known.sum(0) - counts
    found: Floats = np.divide(goal, counts, out=np.ones(classes), where=(counts > 0) & (goal > 0))
    return found


OnHost = Tensor | Numbers
"""Targets where they can be looked at without waiting for a GPU."""


class LossConfig(Config):
    """Cross-entropy and a penalty on jumps between neighbouring frames.

    TeCNO's class weights for Cholec80 are [1.641, 0.191, 1.0, 0.250, 1.918, 0.984, 2.175]. A `smoothing` of 0.15 is
    that of MS-TCN++, ASFormer and SelfSupSurg's TeCNO; TeCNO's own code has no such term. SurgPhaseBench's files say
    0.25 where its code does not look, so that its own default of 0.15 counts. `truncate` is 16 = 4^2 in all of them.
    """

    class_weights: Literal["balanced", "none"] | list[float] = Field(
        default="balanced",
        description="balanced: by the inverse frequency of the classes; none; or a positive number per class; for "
        "several labels a frame they weigh the positives",
    )
    smoothing: float = Field(
        default=0.15, ge=0, description="weight of the truncated mean squared error between neighbouring frames"
    )
    truncate: float = Field(default=16.0, gt=0, description="bound of the squared difference of log-probabilities")


@dataclass(frozen=True)
class TemporalLoss:
    """Sum over the stages of classification loss + smoothing * truncated MSE, as in MS-TCN++, ASFormer and SelfSupSurg;
    TeCNO and SurgPhaseBench take the mean over the stages. `weights` float32 [K] or None.
    """

    kind: Kind
    weights: Tensor | None
    smoothing: float
    truncate: float

    def to(self, device: str) -> TemporalLoss:
        """The same on `device`."""
        return self if self.weights is None else replace(self, weights=self.weights.to(device))

    def __call__(self, stages: Sequence[Tensor], targets: OnHost) -> Tensor:
        """`stages`: logits [T, K] each; `targets` as in `classification_loss`. 0 where nothing is labelled."""
        losses = [classification_loss(logits, targets, self.kind, self.weights) for logits in stages]
        if self.smoothing:
            jumps = [truncated_mse(logits, targets, self.kind, self.truncate) for logits in stages]
            losses += [self.smoothing * jump for jump in jumps]
        return torch.stack(losses).sum()


def classification_loss(logits: Tensor, targets: OnHost, kind: Kind, weights: Tensor | None) -> Tensor:
    """Cross-entropy of one case, logits [T, K]; unlabelled entries (below 0) count for nothing.

    One label a frame, targets int64 [T]: sum_t w_{y_t} (-log p_{t, y_t}) / sum_t w_{y_t}, as torch's weighted
    mean. Several, targets [T, K] in 0 .. 1: the mean over labelled (t, c) of -(w_c y log p + (1 - y) log(1 -
    p)).
    """
    values = np.asarray(targets)
    known = values >= 0
    if not known.any():
        return logits.sum() * 0.0
    if kind == "multiclass":
        return F.cross_entropy(_at(logits, known), sent(values[known], logits.device), weight=weights)
    goals = sent(values.clip(0), logits.device).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, goals, pos_weight=weights, reduction="none")
    return _at(each, known).mean()


def truncated_mse(logits: Tensor, targets: OnHost, kind: Kind, truncate: float) -> Tensor:
    """mean over t, c of min((log p_{t,c} - stop_gradient(log p_{t-1,c}))^2, truncate), MS-TCN
    (arXiv:1903.01945), eq. 8.

    log p is the log-softmax, for several labels a frame the log-sigmoid. Only pairs of which both are
    labelled count. Neighbours in the sequence are neighbours here, whatever time lies between them. A case of
    one frame has 0.
    """
    log_p = logits.log_softmax(1) if kind == "multiclass" else F.logsigmoid(logits)
    known = np.asarray(targets) >= 0
    pairs = known[1:] & known[:-1]
    if not pairs.any():
        return logits.sum() * 0.0
    jump = (log_p[1:] - log_p[:-1].detach()).square().clamp(max=truncate)
    return _at(jump, pairs).mean()


def _at(values: Tensor, chosen: npt.NDArray[np.bool_]) -> Tensor:
    """values[chosen]: which they are is known on the host, and a GPU that was asked for it would be waited for."""
    return values[tuple(sent(index, values.device) for index in np.nonzero(chosen))]


def build_loss(config: LossConfig, targets: Sequence[Numbers], classes: int, kind: Kind) -> TemporalLoss:
    """The loss for these training labels. Raises ConfigError for class weights that do not fit the classes."""
    given = config.class_weights
    if given == "none":
        weights = None
    elif given == "balanced":
        weights = torch.tensor(balanced_weights(np.concatenate(targets), classes), dtype=torch.float32)
    elif len(given) != classes or min(given) <= 0:
        raise ConfigError(f"loss.class_weights = {given}: expected {classes} positive numbers, one per class")
    else:
        weights = torch.tensor(given, dtype=torch.float32)
    return TemporalLoss(kind, weights, config.smoothing, config.truncate)
