"""What a segmentation metric sees: the confusion matrix of every image, and the case it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from trocar.downstream.metrics.outcome import Floats, Ints, Outcome
from trocar.errors import TrocarError

Masks = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentationOutcome:
    """Predictions of n test images.

    `confusions` int64 [n, K, K] counts pixels: row is the ground truth, column the prediction, ignored pixels are left
    out. `case` int64 [n] is 0 .. number of cases - 1. `classes` are K names, and `background` the index of the one
    that metrics "without background" leave out (None: there is none, and they leave nothing out). `surface` float64
    [n, K] are normalised surface Dice values (see `segmentation_surface`), if they were computed.
    """

    confusions: Ints
    case: Ints
    classes: tuple[str, ...]
    background: int | None = 0
    surface: Floats | None = None
    per_item: ClassVar[tuple[str, ...]] = ("confusions", "surface")

    @cached_property
    def cases(self) -> int:
        """Number of cases."""
        return int(self.case.max()) + 1 if len(self.case) else 0

    @cached_property
    def occurrences(self) -> Ints:
        """Images whose ground truth has the class, int64 [K]."""
        found: Ints = (self.confusions.sum(2) > 0).sum(0)
        return found

    @cached_property
    def by_case(self) -> Floats:
        """Confusions float64 [cases, K, K], pooled over the images of each case."""
        k = len(self.classes)
        total = np.zeros((self.cases, k, k))
        np.add.at(total, self.case, self.confusions)
        return total

    @cached_property
    def foreground(self) -> npt.NDArray[np.bool_]:
        """[K]: every class but the background."""
        chosen = np.ones(len(self.classes), dtype=bool)
        if self.background is not None:
            chosen[self.background] = False
        return chosen


AnyOutcome = Outcome | SegmentationOutcome

SegmentationMetric = Callable[[SegmentationOutcome, "Floats | None"], float]
"""metric(outcome, weights): `weights` is float64 [cases], how often each case counts (None: once)."""


def confusions(gt: Masks, pred: Masks, classes: int, ignore: int = 255) -> Ints:
    """Confusion matrix of every image: uint8 [n, H, W] twice -> int64 [n, K, K], row ground truth, column prediction.

    Pixels whose ground truth is `ignore` are left out, whatever was predicted there: a prediction cannot be wrong where
    nothing is labelled. Raises TrocarError for shapes that differ or a class that is not 0 .. K - 1.
    """
    if gt.shape != pred.shape:
        raise TrocarError(f"ground truth {gt.shape} and predicted masks {pred.shape} have different shapes")
    return np.stack([_confusion(g, p, classes, ignore) for g, p in zip(gt, pred, strict=True)])


def _confusion(gt: Masks, pred: Masks, classes: int, ignore: int) -> Ints:
    use = gt != ignore
    g, p = gt[use].astype(np.int64), pred[use].astype(np.int64)
    for what, values in (("ground truth", g), ("prediction", p)):
        if len(values) and values.max() >= classes:
            raise TrocarError(f"{what} has class {values.max()}, but there are {classes} classes (0 .. {classes - 1})")
    counts = np.bincount(g * classes + p, minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.int64)
