"""The loss of one task: cross-entropy, or binary cross-entropies, with class weights and unlabelled frames left out.

Class weights that make rare classes count as much as frequent ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.data.views.pixel_ops import sent
from trocar.downstream.labels import Kind
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols.base import Goal
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
