"""Whole cases as sequences, and the checks and the standardisation they go through."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trocar.downstream.labels import Kind
from trocar.errors import TrocarError

Features = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Sequence:
    """One case in the order of time.

    `features` float32 [T, D] (a float16 cache is fine, it is computed with in float32); `targets` int64 [T],
    a class index or -1 for unlabelled, or [T, K] in 0 .. 1 with negative numbers for unlabelled entries;
    `time_s` float64 [T], strictly increasing.

    Unlabelled frames should stay in: they are context for their neighbours and cost nothing in the loss.
    Frames that were not extracted are simply not there; heads count frames, not seconds, so a gap is a cut to
    them.
    """

    case: str
    features: Numbers
    targets: Numbers
    time_s: Numbers

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Standard:
    """(x - mean) * scale per feature dimension, float32 [D] each."""

    mean: Features
    scale: Features

    def __call__(self, features: Numbers) -> Features:
        """[T, D] -> float32 [T, D]."""
        found: Features = (features.astype(np.float32) - self.mean) * self.scale
        return found


def fit_standard(sequences: Many[Sequence]) -> Standard:
    """Mean 0 and standard deviation 1 over all frames of `sequences`, labelled or not; constant dimensions
    become 0.

    Sums in float64, case by case: a concatenation of a large data set would not fit beside it.
    """
    count = sum(len(s) for s in sequences)
    mean = sum(s.features.sum(0, dtype=np.float64) for s in sequences) / count
    squares = sum(np.square(s.features.astype(np.float64) - mean).sum(0) for s in sequences)
    deviation = np.sqrt(squares / count)
    # A spread below float32's rounding of the value itself is no signal, and would be blown up to one.
    varies = deviation > 1e-7 * np.abs(mean)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    return Standard(mean.astype(np.float32), scale.astype(np.float32))


def check_features(sequence: Sequence, dimensions: int | None = None) -> None:
    """Raises TrocarError unless the features are finite [T, D] with T >= 1, in the order of time."""
    features, name = sequence.features, f"case {sequence.case!r}"
    if features.ndim != 2 or len(features) < 1:
        raise TrocarError(
            f"{name}: features are {list(features.shape)}, expected [frames, dimensions], 1 frame or more"
        )
    if dimensions is not None and features.shape[1] != dimensions:
        raise TrocarError(
            f"{name}: {features.shape[1]} feature dimensions where the training has {dimensions}: "
            "all cases need the features of the same backbone"
        )
    if sequence.time_s.shape != (len(features),):
        raise TrocarError(f"{name}: {len(features)} frames but times of shape {list(sequence.time_s.shape)}")
    if not (np.diff(sequence.time_s) > 0).all():
        row = int(np.argmin(np.diff(sequence.time_s) > 0)) + 1
        raise TrocarError(
            f"{name}: frame {row} (t = {sequence.time_s[row]:g} s) is not later than the one before; sort by time"
        )
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise TrocarError(
            f"{name}: the features of {int((~finite).sum())} frames are NaN or infinite, the first is frame {row} "
            f"(t = {sequence.time_s[row]:g} s); look at that frame and at the backbone, then extract again"
        )


def check_targets(sequence: Sequence, kind: Kind, classes: int) -> None:
    """Raises TrocarError unless the targets have the shape and the range of their kind."""
    targets, frames = sequence.targets, len(sequence)
    expected = (frames,) if kind == "multiclass" else (frames, classes)
    if targets.shape != expected:
        raise TrocarError(
            f"case {sequence.case!r}: targets are {list(targets.shape)}, expected {list(expected)} for {kind} labels"
        )
    highest = classes - 1 if kind == "multiclass" else 1
    if not (targets <= highest).all():
        raise TrocarError(
            f"case {sequence.case!r}: a target is {targets.max()}, the largest allowed is {highest} "
            f"({classes} classes, {kind}; unlabelled is -1)"
        )
