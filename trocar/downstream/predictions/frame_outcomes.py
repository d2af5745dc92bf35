"""Predictions with labels and scores of frames become outcomes, of our own files and of other people's."""

from __future__ import annotations

import numpy as np
import pandas as pd

from trocar.core.messages import Say
from trocar.downstream.metrics.calibration import improbable
from trocar.downstream.metrics.outcome import Bools, Floats, Ints, Outcome
from trocar.downstream.predictions.foreign_columns import (
    called_by_numbers,
    check_counting,
    how_to_name,
    lacking,
    places_of,
)
from trocar.downstream.predictions.prediction_file import LISTS, PREFIXES, RunRows
from trocar.downstream.tasks import get_task
from trocar.errors import nearest

THRESHOLD = 0.5


def frame_outcome(run: RunRows, say: Say = lambda line: None) -> Outcome:
    """The labels and scores of one run. `say` is told what metrics are left out and why.

    Raises TrocarError for missing columns or values that cannot be (each says what is needed).
    """
    classes = _classes(run)
    single = get_task(run.key.task).kind == "multiclass"
    gt, pred, scores = _single(run, classes, say) if single else _several(run, classes, say)
    if classes and len(classes) != scores.shape[1]:
        raise run.error(f"{len(classes)} class names but {scores.shape[1]} scores a frame")
    rows = run.rows
    return Outcome(
        gt,
        pred,
        scores,
        np.unique(rows["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64),
        time_s=rows["time_s"].to_numpy(np.float64) if "time_s" in rows else None,
        fps=_fps(run),
        classes=classes,
        soft=_soft(run, classes),
        unscored=_unscored(run, classes),
        fold=_folds(rows),
    )


def _classes(run: RunRows) -> tuple[str, ...]:
    """Names from the metadata, else from the columns `score_<class>`, else none."""
    named = run.about.classes.get(run.key.task)
    if named is not None:
        return tuple(str(name) for name in named)
    return tuple(_columns(run, PREFIXES["scores"]) or _columns(run, PREFIXES["gt_labels"]))


def _columns(run: RunRows, prefix: str) -> list[str]:
    """Class names of the columns `<prefix><class>`."""
    names = [c for c in run.rows.columns if c.startswith(prefix) and c not in LISTS]
    return [name.removeprefix(prefix) for name in names]


def _lists(run: RunRows, column: str, classes: tuple[str, ...]) -> Floats | None:
    """Values per class, float64 [n, K], or None if the file has none."""
    rows, prefix = run.rows, PREFIXES[column]
    if column in rows:
        lengths = np.array([len(v) if hasattr(v, "__len__") else 0 for v in rows[column]])
        other = lengths != lengths[0]
        if other.any() or not lengths[0]:
            sizes = sorted({*lengths.tolist()})
            raise run.error(f"column {column!r} has lists of different lengths or empty ones ({sizes})", other)
        return _finite(run, column, np.stack(rows[column].to_list()).astype(np.float64))
    named = _columns(run, prefix)
    if not named:
        return None
    missing = [name for name in classes if name not in named]
    if missing:
        raise run.error(f"no column {prefix}{missing[0]} (classes: {', '.join(classes)})")
    found = rows[[prefix + name for name in classes]]
    for name in found:
        if not pd.api.types.is_numeric_dtype(found[name]):
            odd = pd.to_numeric(found[name], errors="coerce").isna().to_numpy()
            raise run.error(f"{name} {found[name].to_numpy()[int(odd.argmax())]!r}: expected a number", odd)
    return _finite(run, prefix, found.to_numpy(np.float64))


def _finite(run: RunRows, column: str, values: Floats) -> Floats:
    bad: Bools = np.any(~np.isfinite(values), axis=1)
    if bad.any():
        raise run.error(f"column {column!r}: {int(bad.sum())} frames have values that are not finite numbers", bad)
    return values


def _soft(run: RunRows, classes: tuple[str, ...]) -> Floats | None:
    soft = _lists(run, "gt_soft", classes)
    wrong = np.zeros(0, dtype=bool) if soft is None else np.any((soft < 0) | (soft > 1), axis=1)
    if wrong.any():
        raise run.error("gt_soft is a mean of 0 and 1, so from 0 to 1", wrong)
    return soft


def _single(run: RunRows, classes: tuple[str, ...], say: Say) -> tuple[Ints, Ints, Floats]:
    """Class indices and scores of a task with one label a frame."""
    scores = given = _lists(run, "scores", classes)
    gt = _indices(run, "gt", classes)
    if gt is None or ("pred" not in run.rows and scores is None):
        wanted = "gt" if gt is None else "pred"
        raise run.error(
            f"no column {lacking(wanted, run.columns)}; needs 'gt' (class index or name) and 'pred' or 'scores'; "
            f"found {', '.join(run.columns)}"
        )
    pred = _indices(run, "pred", classes)
    if pred is None:
        assert scores is not None
        pred = scores.argmax(1).astype(np.int64)
    if scores is None:
        count = len(classes) or int(max(gt.max(), pred.max())) + 1
        scores = np.full((len(gt), count), np.nan)
    else:
        _say_improbable(run, scores, 1, "ece, brier and nll are left out", say)
    for name, values in (("gt", gt), ("pred", pred)):
        wrong = (values < 0) | (values >= scores.shape[1])
        if wrong.any():
            what = f"column {name!r} has class {values[wrong][0]}; there are classes 0 to {scores.shape[1] - 1}"
            raise run.error(what, wrong)
    if not called_by_numbers(classes):
        try:
            check_counting(gt, pred, given if "pred" in run.rows else None, classes)
        except ValueError as error:
            raise run.error(str(error)) from None
    return gt, pred, scores


def _indices(run: RunRows, column: str, classes: tuple[str, ...]) -> Ints | None:
    """Class indices of a column of indices or names; None if the column is not there."""
    if column not in run.rows:
        return None
    labels = run.rows[column]
    empty = labels.isna().to_numpy()
    if empty.any():
        raise run.error(f"column {column!r} is empty in {int(empty.sum())} rows; leave those frames out", empty)
    task, about = run.key.task, run.about
    stored = pd.api.types.is_numeric_dtype(labels)
    if stored and called_by_numbers(classes) and not about.places and task in about.classes:
        raise run.error(
            f"column {column!r} holds integers, and classes are called by numbers ({', '.join(classes)}): places from "
            "0, or names? Store it as text, which is names"
        )
    try:
        return places_of(labels, classes, about.places, how_to_name(task, run.path))
    except ValueError as error:
        row, words = error.args
        raise run.error(f"row {row}: column {column!r}: {words}") from None


def _say_improbable(run: RunRows, scores: Floats, total: float | None, without: str, say: Say) -> Bools:
    """Which rows are no probabilities, bool [n]; told with the first one and what is `without` them."""
    wrong = improbable(scores, total)
    if wrong.any():
        first = int(wrong.argmax())
        shown = ", ".join(f"{value:.4g}" for value in scores[first][:8]) + (" ..." if scores.shape[1] > 8 else "")
        say(
            f"{run.key.task}: the scores of {int(wrong.sum())} of {len(wrong)} rows are no probabilities (row "
            f"{run.rows.index[first]}: {shown}); {without}"
        )
    return wrong


def _several(run: RunRows, classes: tuple[str, ...], say: Say) -> tuple[Ints, Ints, Floats]:
    """0/1 labels and scores of a task with any number of labels a frame."""
    gt, scores = _lists(run, "gt_labels", classes), _lists(run, "scores", classes)
    pred = _lists(run, "pred_labels", classes)
    if gt is None or (scores is None and pred is None):
        raise run.error(
            f"no columns {lacking('gt_' if gt is None else 'score_', run.columns)}; needs 'gt_labels' (or "
            "gt_<class>) and 'scores' (or score_<class>) or 'pred_labels' (or pred_<class>), one value per class; "
            f"found {', '.join(run.columns)}"
        )
    if scores is not None:
        wrong = _say_improbable(run, scores, None, "ece and brier are left out", say)
        if pred is None and wrong.any():
            what = f"scores are no probabilities, so {THRESHOLD} is no threshold for them; give 'pred_labels'"
            raise run.error(f"{what} (or pred_<class>)", wrong)
        pred = (scores >= THRESHOLD).astype(np.float64) if pred is None else pred
    assert pred is not None
    scores = np.full(gt.shape, np.nan) if scores is None else scores
    if not gt.shape == pred.shape == scores.shape:
        raise run.error(f"gt_labels, pred_labels and scores differ in classes: {gt.shape[1]}, {pred.shape[1]}, "
                          f"{scores.shape[1]}")  # fmt: skip
    for name, values in (("gt_labels", gt), ("pred_labels", pred)):
        wrong = np.any(~np.isin(values, (0, 1)), axis=1)
        if wrong.any():
            raise run.error(f"{name} must be 0 or 1; put means of several annotators in 'gt_soft'", wrong)
    return gt.astype(np.int64), pred.astype(np.int64), scores


def _fps(run: RunRows) -> float:
    """As given, else from the median distance of frames in time, else 1."""
    if run.about.fps is not None:
        return float(run.about.fps)
    if "time_s" not in run.rows:
        return 1.0
    steps = run.rows.groupby("case", sort=False)["time_s"].diff().to_numpy(np.float64)
    steps = steps[steps > 0]
    return float(1 / np.median(steps)) if len(steps) else 1.0


def _unscored(run: RunRows, classes: tuple[str, ...]) -> tuple[int, ...]:
    names = [str(name) for name in run.about.unscored.get(run.key.task, ())]
    for name in names:
        if name not in classes:
            raise run.error(f"unscored class {name!r} is none of its classes{nearest(name, classes)}")
    return tuple(classes.index(name) for name in names)


def _folds(rows: pd.DataFrame) -> Ints | None:
    if "fold" not in rows or rows["fold"].isna().any():
        return None
    return np.unique(rows["fold"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
