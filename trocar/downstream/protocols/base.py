"""The shape of a protocol, and the standardisation they share."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.tasks.base import Kind, Task


@dataclass(frozen=True)
class TrainingSet:
    """Labelled training frames: `features` [n, D], `targets` as the task has them, `case` int64 [n] (any
    numbers).
    """

    features: Floats
    targets: Ints
    case: Ints
    classes: int


@dataclass(frozen=True)
class Prediction:
    """`scores` float64 [m, K]: probabilities; `detail` is what was chosen on the way (JSON values)."""

    scores: Floats
    detail: Mapping[str, Any] = field(default_factory=dict)


class Protocol(typing.Protocol):
    """Fit on the training frames, predict the test features [m, D]. No test label is ever handed in."""

    def __call__(self, task: Task, train: TrainingSet, test: Floats) -> Prediction: ...


def decide(kind: Kind, scores: Floats) -> Ints:
    """Labels from probabilities: the most probable class [m], or each class at 0.5 and above [m, K]."""
    return scores.argmax(1).astype(np.int64) if kind == "multiclass" else (scores >= 0.5).astype(np.int64)


def standardise(train: Floats, *others: Floats) -> list[Floats]:
    """Every dimension to mean 0 and standard deviation 1 over `train`; constant dimensions become 0."""
    mean = train.mean(0)
    deviation = train.std(0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-8 * (np.abs(mean) + 1e-8))
    return [(x - mean) * scale for x in (train, *others)]


def one_hot(targets: Ints, classes: int) -> Floats:
    """[n] class indices -> [n, K] of 0 and 1; targets that are [n, K] already are only converted."""
    return np.eye(classes)[targets] if targets.ndim == 1 else targets.astype(np.float64)
