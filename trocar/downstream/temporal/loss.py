"""The loss of temporal heads: class-weighted cross-entropy and a penalty on jumps between neighbouring
frames.
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
from trocar.downstream.temporal.sequence import Numbers
from trocar.downstream.training.loss import balanced_weights
from trocar.errors import ConfigError

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
