"""What a metric sees: labels, predictions and scores of all test frames, and the case each belongs to.

Of masks it sees the confusion matrix of every image.

Bootstrap over cases: frames of one operation are not independent, so whole operations are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from trocar.core.random import below, make_key, words
from trocar.errors import TrocarError

DRAWS_AT_ONCE = 1000
"""Draws of the bootstrap whose random words are in memory together."""


class HasCases(Protocol):
    """Predictions of frames that belong to cases, numbered from 0; a dataclass."""

    per_item: ClassVar[tuple[str, ...]]
    """Its fields that have an entry per frame, besides `case`."""

    @property
    def case(self) -> Ints:
        """int64 [n], the case of each frame."""

    @property
    def cases(self) -> int:
        """Number of cases."""


Predicted = TypeVar("Predicted", bound=HasCases)


def bootstrap_interval(
    metric: Callable[[Predicted, Floats | None], float],
    outcomes: list[Predicted],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of `metric`, averaged over `outcomes` (the runs of one contender, all on the same cases):
    `percentile_interval` of the mean of their `resampled` values.
    """
    return percentile_interval(np.mean([resampled(metric, one, draws, seed) for one in outcomes], axis=0), level)


def resampled(
    metric: Callable[[Predicted, Floats | None], float], outcome: Predicted, draws: int, seed: int = 0
) -> Floats:
    """`metric` on every draw of the bootstrap, float64 [draws], NaN where it is undefined; empty for fewer than 3
    cases.

    Each draw takes as many cases as there are, with replacement: the same ones for every outcome of as many cases, so
    that the runs of one contender, and contenders, can be compared draw by draw.
    """
    cases = outcome.cases
    if cases < 3:
        return np.zeros(0)
    return np.array([metric(outcome, weights) for weights in _drawn_cases(cases, draws, seed)], dtype=np.float64)


def _drawn_cases(cases: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each draw takes each case, float64 [cases] one after another; they add up to `cases`."""
    key = make_key(seed, "bootstrap")
    for start in range(0, draws, DRAWS_AT_ONCE):
        numbers = np.arange(start, min(start + DRAWS_AT_ONCE, draws))
        taken = below(words(key, cases, numbers), cases)
        for of_draw in taken:
            yield np.bincount(of_draw, minlength=cases).astype(np.float64)


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """The interval that leaves out (1 - `level`) / 2 of the defined values [draws] on either side; None without any."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """Predictions of n test frames, pooled over the folds. The frames of one case are in time order.

    One label a frame: `gt` and `pred` are int64 [n] class indices. Several: int64 [n, K] of 0 and 1. `scores`
    is float64 [n, K], larger is more confident; NaN everywhere if only labels are known. `case` is int64 [n],
    the operation a frame belongs to, 0 .. number of cases - 1. `time_s` is float64 [n], seconds in the
    operation; `fps` how many labelled frames a second has. `classes` are the K names. `soft` is float64
    [n, K], the mean of several annotators' 0 and 1. `unscored` are indices of classes that the data set takes
    out of scoring: frames of such a phase or step do not count, columns of such a tool neither. `fold` is
    int64 [n], the fold whose model predicted the frame.
    """

    gt: Ints
    pred: Ints
    scores: Floats
    case: Ints
    time_s: Floats | None = None
    fps: float = 1.0
    classes: tuple[str, ...] = ()
    soft: Floats | None = None
    unscored: tuple[int, ...] = ()
    fold: Ints | None = None
    per_item: ClassVar[tuple[str, ...]] = ("gt", "pred", "scores", "time_s", "soft", "fold")
    _tables: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def cases(self) -> int:
        """Number of cases."""
        return int(self.case.max()) + 1 if len(self.case) else 0

    @cached_property
    def rows_of_case(self) -> list[Ints]:
        """Frame indices of every case, in time order."""
        order = np.argsort(self.case, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.case, minlength=self.cases))[:-1])

    @cached_property
    def scored(self) -> Bools:
        """Bool [n]: False for frames whose phase or step the data set does not score."""
        return ~np.isin(self.gt, self.unscored) if self.gt.ndim == 1 else np.ones(len(self.gt), dtype=bool)

    @cached_property
    def occurrences(self) -> Ints:
        """Frames whose label has the class, int64 [K]."""
        classes = self.scores.shape[1]
        return np.bincount(self.gt, minlength=classes) if self.gt.ndim == 1 else self.gt.sum(0)

    def once(self, table: Callable[..., T], *args: Hashable) -> T:
        """`table(self, *args)`, computed once however often a metric is resampled.

        What costs time (sorting, matching segments) goes into a table per case, so that a draw of the
        bootstrap only weighs it.
        """
        key = (table, *args)
        if key not in self._tables:
            self._tables[key] = table(self, *args)
        return self._tables[key]  # type: ignore[no-any-return]


Metric = Callable[[Outcome, "Floats | None"], float]
"""metric(outcome, weights): `weights` is float64 [cases], how often each case counts (None: once)."""

AnyMetric = Callable[[Any, "Floats | None"], float]
"""A metric of whatever outcome its task has: labels of frames, or masks."""


def always(outcome: HasCases) -> bool:
    """A metric that is defined for any outcome of its task."""
    return True


def has_scores(outcome: Outcome) -> bool:
    """True if every frame has scores, not labels alone."""
    return not bool(np.isnan(outcome.scores).any())


@dataclass(frozen=True)
class Named:
    """A metric under its name; `offered` says whether it means anything for an outcome."""

    metric: AnyMetric
    offered: Callable[[Any], bool] = always


def of_cases(outcome: Predicted, wanted: Bools) -> Predicted:
    """The outcome of some of its cases alone, `wanted` bool [cases]; they are numbered anew."""
    keep = wanted[outcome.case]
    case = np.unique(outcome.case[keep], return_inverse=True)[1].astype(np.int64)
    cut = {name: values[keep] for name in outcome.per_item if (values := getattr(outcome, name)) is not None}
    return cast("Predicted", replace(cast("Any", outcome), **cut, case=case))


def frame_weights(outcome: Outcome, weights: Floats | None) -> Floats:
    """Weight of every frame, float64 [n], from the weights of the cases."""
    return np.ones(len(outcome.case)) if weights is None else weights[outcome.case]


def case_weights(outcome: Outcome, weights: Floats | None) -> Floats:
    """Weight of every case, float64 [cases]."""
    return np.ones(outcome.cases) if weights is None else weights


def case_sums(outcome: Outcome, values: Floats) -> Floats:
    """Sums over the frames of each case: [n, ...] -> [cases, ...]."""
    sums = np.zeros((outcome.cases, *values.shape[1:]))
    np.add.at(sums, outcome.case, values)
    return sums


def case_means(values: Floats, weights: Floats | None) -> Floats:
    """Weighted mean over cases, [cases, ...] -> [...], of the values that are defined (not NaN); NaN where
    none is.
    """
    weights = np.ones(len(values)) if weights is None else weights
    defined = ~np.isnan(values)
    return ratio(np.tensordot(weights, np.where(defined, values, 0.0), 1), np.tensordot(weights, defined, 1))


def case_mean(values: Floats, weights: Floats | None) -> float:
    """`case_means` of one value per case."""
    return float(case_means(values, weights))


def mean_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where all is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """part / whole, NaN where `whole` is 0."""
    above, below = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    result: Floats = np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)
    return result


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
