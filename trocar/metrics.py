"""Every metric as a plain function: arrays in, one float out.

The functions are made from the metrics of all registered tasks and from those that plugins add to them, under readable
names: `f1@video_macro_A` is `f1_video_macro_A`, and `f1_video_macro(..., absent="A")` is all four rules of one measure.
`dir(trocar.metrics)` lists them; docs/metrics.md says of each what it is, who reports it and what to beware of. All
take the same arguments:

    labels       int [n], class indices from 0; [n, K] of 0 and 1 where a frame may have several labels; or
                 uint8 [n, H, W], the class of each pixel, 255 where none is labelled (or a sequence of [H, W])
    predictions  the same shape; None where `scores` decide (the largest, or each from 0.5)
    cases        [n], the operation that a frame belongs to (numbers or names); None: all of one. The frames of a
                 case are in time order
    scores       float [n, K], larger is more confident
    classes      the K names, which some metrics go by; of masks at least their number
    times, fps   seconds of each frame in its case, [n], which then need not be in order; labelled frames per second
    soft         float [n, K], the mean of several annotators' 0 and 1
    folds        [n], the fold whose model predicted the frame
    unscored     indices of classes that the data set takes out of scoring
    background   of masks, the class that metrics "without background" leave out

NaN means that the metric is undefined for these frames. Raises ConfigError for arrays that do not fit, or that lack
what the metric needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from trocar.downstream.labels import Kind
from trocar.downstream.metrics.outcome import AnyOutcome, Floats, Ints, Named, Outcome, SegmentationOutcome, confusions
from trocar.downstream.metrics.registry import NO_BACKGROUND
from trocar.downstream.tasks import get_task
from trocar.downstream.tasks.base import METRICS, TASKS, Task
from trocar.errors import ConfigError, nearest

Function = Callable[..., float]
RULES = "video_macro"
"""Metrics in four versions, `<measure>@video_macro_<rule>`: what is done about classes that a video does not have."""
LABELS: dict[Kind, str] = {"multiclass": "labels [n]", "multilabel": "labels [n, K]", "mask": "masks"}
"""What the labels of each kind look like, for errors."""
ABSENT = ("A", "B", "C", "all")
THRESHOLD = 0.5
IGNORED = 255


def __getattr__(name: str) -> Function:
    found = _functions()
    if name not in found:
        raise AttributeError(f"no metric {name!r}{nearest(name, found)}; dir(trocar.metrics) lists them")
    return found[name]


def __dir__() -> list[str]:
    return sorted(_functions())


_made: tuple[list[Any], dict[str, Function]] = ([], {})
"""What the functions were made from when a name was last asked for, and the functions."""


def _functions() -> dict[str, Function]:
    """Python name -> function, of all metrics that are registered now: a notebook may have added one."""
    global _made
    tasks, added = TASKS.values(), METRICS.values()
    sources = [*tasks, *added]
    if len(sources) != len(_made[0]) or any(one is not other for one, other in zip(sources, _made[0], strict=True)):
        _made = sources, _made_of(tasks)
    return _made[1]


def _made_of(tasks: Sequence[Task]) -> dict[str, Function]:
    found: dict[str, _Metric] = {}
    for task in tasks:
        for name, named in task.named.items():
            found.setdefault(_python(name), _Metric(name)).add(named, task.kind)
    functions: dict[str, Function] = {name: metric.function(name) for name, metric in found.items()}
    for measure in {name.partition("@")[0] for name in get_task("phase").named if f"@{RULES}_" in name}:
        functions[f"{measure}_{RULES}"] = _by_rule(measure, functions)
    return functions


def _python(name: str) -> str:
    return name.replace("@", "_").replace(".", "_")


class _Metric:
    """One name, and what it is for frames of one label, of several, and for masks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.of: dict[Kind, list[Named]] = {"multiclass": [], "multilabel": [], "mask": []}

    def add(self, named: Named, kind: Kind) -> None:
        """A task's metric of this name, for labels of its kind; one that tasks share is there once."""
        if not any(_parts(named.metric) == _parts(other.metric) for other in self.of[kind]):
            self.of[kind].append(named)

    def function(self, python_name: str) -> Function:
        """The metric as a function of arrays."""

        def compute(
            labels: npt.ArrayLike,
            predictions: npt.ArrayLike | None = None,
            cases: npt.ArrayLike | None = None,
            *,
            scores: npt.ArrayLike | None = None,
            classes: Sequence[str] | int | None = None,
            times: npt.ArrayLike | None = None,
            fps: float = 1.0,
            soft: npt.ArrayLike | None = None,
            folds: npt.ArrayLike | None = None,
            unscored: Sequence[int] = (),
            background: int | None = None,
        ) -> float:
            if _are_masks(labels):
                return self._score_masks(labels, predictions, cases, classes, background)
            frames = _frames(labels, predictions, cases, scores, classes, times, fps, soft, folds, unscored)
            return self._score_frames(frames)

        compute.__name__ = compute.__qualname__ = python_name
        compute.__module__ = __name__
        compute.__doc__ = f"{self._about()}\n\nArguments, shapes and errors: `help(trocar.metrics)`."
        return compute

    def _score_frames(self, outcome: Outcome) -> float:
        fitting = self.of["multilabel" if outcome.gt.ndim == 2 else "multiclass"]
        if not fitting:
            takes = " or ".join(LABELS[kind] for kind, metrics in self.of.items() if metrics)
            raise ConfigError(f"{self.name} takes {takes}, not labels of shape {list(outcome.gt.shape)}")
        return self._score(outcome, fitting)

    def _score_masks(self, labels: Any, predictions: Any, cases: Any, classes: Any, background: int | None) -> float:
        if not self.of["mask"]:
            raise ConfigError(f"{self.name} is no metric of masks")
        if background is None and self.name.endswith(NO_BACKGROUND):
            raise ConfigError(f"{self.name}: give `background`, the class to leave out")
        return self._score(_masks(labels, predictions, cases, classes, background), self.of["mask"])

    def _score(self, outcome: AnyOutcome, fitting: Sequence[Named]) -> float:
        offered = [named for named in fitting if named.offered(outcome)]
        if not offered:
            needs = "; or ".join(_first_line(named.offered) for named in fitting)
            raise ConfigError(f"{self.name} means nothing for these frames. What it needs: {needs}")
        first, *others = (float(named.metric(outcome, None)) for named in offered)
        if not all(np.array_equal(first, value, equal_nan=True) for value in others):
            raise ConfigError(f"{self.name} is another metric for each of several tasks; give `classes` to tell which")
        return first

    def _about(self) -> str:
        texts = dict.fromkeys(_doc(named.metric) for metrics in self.of.values() for named in metrics)
        return f"`{self.name}`.\n\n" + "\n\n".join(filter(None, texts))


def _by_rule(measure: str, functions: dict[str, Function]) -> Function:
    """`f1_video_macro(..., absent="A")` for `f1_video_macro_A` and its siblings."""

    def compute(*args: Any, absent: str = "A", **kwargs: Any) -> float:
        if absent not in ABSENT:
            raise ConfigError(f"absent={absent!r}{nearest(absent, ABSENT)}: expected one of {', '.join(ABSENT)}")
        return functions[f"{measure}_{RULES}_{absent}"](*args, **kwargs)

    compute.__name__ = compute.__qualname__ = f"{measure}_{RULES}"
    compute.__module__ = __name__
    compute.__doc__ = (
        f"`{measure}@{RULES}_A`, `_B`, `_C` or `_all`, by the rule `absent` for classes that a video does not have.\n\n"
        f"{functions[f'{measure}_{RULES}_A'].__doc__}"
    )
    return compute


def _parts(metric: Any) -> tuple[Any, ...]:
    """What a registered metric is made of: tasks may share a function, or the same settings of it."""
    if isinstance(metric, partial):
        return metric.func, metric.args, tuple(sorted(metric.keywords.items(), key=lambda item: item[0]))
    return (metric,)


def _doc(metric: Any) -> str:
    return (getattr(metric.func if isinstance(metric, partial) else metric, "__doc__", None) or "").strip()


def _first_line(offered: Callable[..., bool]) -> str:
    return (offered.__doc__ or offered.__name__).strip().splitlines()[0].rstrip(".")


def _are_masks(labels: Any) -> bool:
    if isinstance(labels, np.ndarray):
        return labels.ndim == 3
    return isinstance(labels, Sequence) and len(labels) > 0 and np.ndim(labels[0]) == 2


def _masks(
    labels: Any, predictions: Any, cases: Any, classes: Sequence[str] | int | None, background: int | None
) -> SegmentationOutcome:
    if predictions is None or len(predictions) != len(labels):
        raise ConfigError("masks: give as many predicted masks as there are labelled ones")
    if classes is None:
        raise ConfigError("masks: give `classes`, their names or their number; some may be in no mask")
    names = tuple(str(i) for i in range(classes)) if isinstance(classes, int) else tuple(map(str, classes))
    pairs = zip(labels, predictions, strict=True)
    counts = [confusions(_pixels(gt), _pixels(pred), len(names), IGNORED) for gt, pred in pairs]
    return SegmentationOutcome(np.concatenate(counts), _numbered(cases, len(labels)), names, background)


def _pixels(mask: Any) -> npt.NDArray[np.uint8]:
    """uint8 [1, H, W]."""
    values = np.asarray(mask)
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() > IGNORED:
        raise ConfigError(f"masks: expected [H, W] of class indices from 0 to 254, or {IGNORED} where none is labelled")
    return values.astype(np.uint8)[None]


def _frames(
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike | None,
    cases: npt.ArrayLike | None,
    scores: npt.ArrayLike | None,
    classes: Sequence[str] | int | None,
    times: npt.ArrayLike | None,
    fps: float,
    soft: npt.ArrayLike | None,
    folds: npt.ArrayLike | None,
    unscored: Sequence[int],
) -> Outcome:
    gt = _whole("labels", labels)
    if gt.ndim not in (1, 2) or not len(gt):
        raise ConfigError(f"labels: expected [n] or [n, K] with at least one frame, got shape {gt.shape}")
    given = None if scores is None else _per_class("scores", scores, len(gt))
    pred = _decided(gt, given) if predictions is None else _whole("predictions", predictions)
    if pred.shape != gt.shape:
        raise ConfigError(f"labels {gt.shape} and predictions {pred.shape} have different shapes")
    count, names = _classes(gt, pred, given, classes)
    highest = count - 1 if gt.ndim == 1 else 1
    for what, values in (("labels", gt), ("predictions", pred)):
        if values.min() < 0 or values.max() > highest:
            raise ConfigError(f"{what}: expected 0 to {highest}; leave frames without a label out")
    case = _numbered(cases, len(gt))
    order = _in_time(case, times)
    seconds = None if times is None else np.asarray(times, dtype=np.float64)[order]
    means = None if soft is None else _per_class("soft", soft, len(gt))[order]
    fold = None if folds is None else _numbered(folds, len(gt))[order]
    known = np.full((len(gt), count), np.nan) if given is None else given
    return Outcome(gt[order], pred[order], known[order], case[order], seconds, fps, names, means, tuple(unscored), fold)


def _whole(what: str, values: npt.ArrayLike) -> Ints:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and (array != np.round(array)).any()):
        raise ConfigError(f"{what}: expected whole numbers, got {array.dtype}")
    return array.astype(np.int64)


def _per_class(what: str, values: npt.ArrayLike, frames: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) != frames or not np.isfinite(array).all():
        raise ConfigError(f"{what}: expected finite numbers [{frames}, K], got shape {array.shape}")
    return array


def _decided(gt: Ints, scores: Floats | None) -> Ints:
    if scores is None:
        raise ConfigError("give predictions, or scores that decide them")
    return (scores.argmax(1) if gt.ndim == 1 else scores >= THRESHOLD).astype(np.int64)


def _classes(
    gt: Ints, pred: Ints, scores: Floats | None, classes: Sequence[str] | int | None
) -> tuple[int, tuple[str, ...]]:
    """Their number, and their names or ()."""
    named = () if classes is None or isinstance(classes, int) else tuple(map(str, classes))
    told = {len(named)} if named else {classes} if isinstance(classes, int) else set()
    told |= {scores.shape[1]} if scores is not None else set()
    told |= {gt.shape[1]} if gt.ndim == 2 else set()
    if len(told) > 1:
        raise ConfigError(f"classes, scores and labels are of different numbers of classes: {sorted(told)}")
    return (told.pop() if told else int(max(gt.max(), pred.max())) + 1), named


def _numbered(ids: npt.ArrayLike | None, frames: int) -> Ints:
    """int64 [n], from 0."""
    if ids is None:
        return np.zeros(frames, dtype=np.int64)
    array = np.asarray(ids)
    if array.shape != (frames,):
        raise ConfigError(f"cases and folds: expected one for each of {frames} frames, got shape {array.shape}")
    return np.unique(array.astype(str), return_inverse=True)[1].astype(np.int64)


def _in_time(case: Ints, times: npt.ArrayLike | None) -> Ints:
    frames = len(case)
    if times is None:
        return np.arange(frames, dtype=np.int64)
    seconds = np.asarray(times, dtype=np.float64)
    if seconds.shape != (frames,) or not np.isfinite(seconds).all():
        raise ConfigError(f"times: expected finite seconds [{frames}], got shape {seconds.shape}")
    return np.lexsort((seconds, case)).astype(np.int64)
