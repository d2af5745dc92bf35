"""Rows of predictions become outcomes, of our own files and of other people's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.downstream.metrics.calibration import improbable
from trocar.downstream.metrics.outcome import Bools, Floats, Ints, Outcome
from trocar.downstream.metrics.registry import MULTILABEL, REGISTRY
from trocar.downstream.predictions.prediction_file import (
    LISTS,
    MASKS,
    PREFIXES,
    About,
    Key,
    called_by_numbers,
    check_counting,
    how_to_name,
    lacking,
    places_of,
    read_predictions,
    with_classes,
    with_keys,
)
from trocar.errors import ConfigError, TrocarError, nearest

THRESHOLD = 0.5
Say = Callable[[str], None]


@dataclass(frozen=True)
class _KeyRows:
    """The rows of one key in time order, and what is needed to explain an error."""

    path: Path
    key: Key
    rows: pd.DataFrame
    about: About
    say: Say

    @property
    def columns(self) -> list[str]:
        """Those of the file."""
        return [str(name) for name in self.rows.columns if name not in Key._fields]

    def error(self, what: str, wrong: Bools | None = None) -> TrocarError:
        """With the number of the first row that is `wrong`, bool [n]."""
        row = "" if wrong is None else f"row {self.rows.index[int(wrong.argmax())]}: "
        return TrocarError(f"{self.path}: task {self.key.task!r}: {row}{what}")


def outcomes(
    path: Path, task: str | None = None, classes: Sequence[str] = (), say: Say = lambda line: None
) -> dict[Key, Outcome]:
    """One outcome per task, backbone, protocol and run in the file.

    `task` keeps one task, and names the task of a file without such a column; `classes` names its classes, where the
    file does not. `say` is told what metrics are left out and why. Raises ConfigError for an unknown task, TrocarError
    for missing columns or values that cannot be (each says what is needed).
    """
    if task is not None and task not in REGISTRY:
        known = (*REGISTRY, MASKS)
        raise ConfigError(f"no task {task!r}{nearest(task, known)}; tasks with metrics: {', '.join(known)}")
    table, about = read_predictions(path)
    found: dict[Key, Outcome] = {}
    tasks = table["task"].dropna().unique() if "task" in table else ()
    masks = table["task"] == MASKS if "task" in table else pd.Series(False, index=table.index)
    table = table[~masks]  # which are read by mask_predictions
    table = with_keys(table, path, task)
    about = replace(about, classes=with_classes(about.classes, classes, task, tasks, path))
    for _, rows in table.groupby(list(Key._fields), sort=False):
        key = Key.of(rows.iloc[0])
        if task in (None, key.task):
            # A column of another task in the same file is empty here: as good as not there.
            group = _KeyRows(path, key, rows.dropna(axis=1, how="all"), about, say)
            _check_frames(group)
            found[key] = _outcome(replace(group, rows=_in_time_order(group.rows)))
    if not found and not masks.any():
        raise TrocarError(f"{path}: no predictions{f' of task {task!r}' if task else ''} in it")
    return found


def _in_time_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by case, video and time; videos of a case stay in the order of their first row."""
    if "time_s" not in rows:
        return rows
    video = pd.factorize(rows["video"])[0] if "video" in rows else np.zeros(len(rows), dtype=np.int64)
    order = np.lexsort((rows["time_s"], video, rows["case"].astype(str)))
    ordered: pd.DataFrame = rows.iloc[order]
    return ordered


def _outcome(group: _KeyRows) -> Outcome:
    if group.key.task not in REGISTRY:
        known = ", ".join(REGISTRY)
        raise group.error(f"unknown task{nearest(group.key.task, REGISTRY)}; tasks with metrics: {known}")
    classes = _classes(group)
    single = group.key.task not in MULTILABEL
    gt, pred, scores = _single(group, classes) if single else _several(group, classes)
    if classes and len(classes) != scores.shape[1]:
        raise group.error(f"{len(classes)} class names but {scores.shape[1]} scores a frame")
    rows = group.rows
    return Outcome(
        gt,
        pred,
        scores,
        np.unique(rows["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64),
        time_s=rows["time_s"].to_numpy(np.float64) if "time_s" in rows else None,
        fps=_fps(group),
        classes=classes,
        soft=_soft(group, classes),
        unscored=_unscored(group, classes),
        fold=_folds(rows),
    )


def _check_frames(group: _KeyRows) -> None:
    rows = group.rows
    for name in ("case", "time_s"):
        empty = rows[name].isna().to_numpy() if name in rows else np.zeros(0, dtype=bool)
        if empty.any():
            raise group.error(f"column {name!r} is empty in {int(empty.sum())} rows; fill it in", empty)
    if "case" not in rows:
        raise group.error("column 'case' is empty")
    frame = [name for name in ("case", "video", "path", "frame", "time_s") if name in rows]
    if "time_s" in rows or "frame" in rows:
        again = rows.duplicated(frame).to_numpy()
        if again.any():
            where = ", ".join(f"{name} {rows[again].iloc[0][name]}" for name in frame)
            what = f"{int(again.sum())} frames are there twice (the first: {where}); tell runs apart by 'replicate'"
            raise group.error(what, again)


def _classes(group: _KeyRows) -> tuple[str, ...]:
    """Names from the metadata, else from the columns `score_<class>`, else none."""
    named = group.about.classes.get(group.key.task)
    if named is not None:
        return tuple(str(name) for name in named)
    return tuple(_columns(group, PREFIXES["scores"]) or _columns(group, PREFIXES["gt_labels"]))


def _columns(group: _KeyRows, prefix: str) -> list[str]:
    """Class names of the columns `<prefix><class>`."""
    names = [c for c in group.rows.columns if c.startswith(prefix) and c not in LISTS]
    return [name.removeprefix(prefix) for name in names]


def _lists(group: _KeyRows, column: str, classes: tuple[str, ...]) -> Floats | None:
    """Values per class, float64 [n, K], or None if the file has none."""
    rows, prefix = group.rows, PREFIXES[column]
    if column in rows:
        lengths = np.array([len(v) if hasattr(v, "__len__") else 0 for v in rows[column]])
        other = lengths != lengths[0]
        if other.any() or not lengths[0]:
            sizes = sorted({*lengths.tolist()})
            raise group.error(f"column {column!r} has lists of different lengths or empty ones ({sizes})", other)
        return _finite(group, column, np.stack(rows[column].to_list()).astype(np.float64))
    named = _columns(group, prefix)
    if not named:
        return None
    missing = [name for name in classes if name not in named]
    if missing:
        raise group.error(f"no column {prefix}{missing[0]} (classes: {', '.join(classes)})")
    found = rows[[prefix + name for name in classes]]
    for name in found:
        if not pd.api.types.is_numeric_dtype(found[name]):
            odd = pd.to_numeric(found[name], errors="coerce").isna().to_numpy()
            raise group.error(f"{name} {found[name].to_numpy()[int(odd.argmax())]!r}: expected a number", odd)
    return _finite(group, prefix, found.to_numpy(np.float64))


def _finite(group: _KeyRows, column: str, values: Floats) -> Floats:
    bad: Bools = np.any(~np.isfinite(values), axis=1)
    if bad.any():
        raise group.error(f"column {column!r}: {int(bad.sum())} frames have values that are not finite numbers", bad)
    return values


def _soft(group: _KeyRows, classes: tuple[str, ...]) -> Floats | None:
    soft = _lists(group, "gt_soft", classes)
    wrong = np.zeros(0, dtype=bool) if soft is None else np.any((soft < 0) | (soft > 1), axis=1)
    if wrong.any():
        raise group.error("gt_soft is a mean of 0 and 1, so from 0 to 1", wrong)
    return soft


def _single(group: _KeyRows, classes: tuple[str, ...]) -> tuple[Ints, Ints, Floats]:
    """Class indices and scores of a task with one label a frame."""
    scores = given = _lists(group, "scores", classes)
    gt = _indices(group, "gt", classes)
    if gt is None or ("pred" not in group.rows and scores is None):
        wanted = "gt" if gt is None else "pred"
        raise group.error(
            f"no column {lacking(wanted, group.columns)}; needs 'gt' (class index or name) and 'pred' or 'scores'; "
            f"found {', '.join(group.columns)}"
        )
    pred = _indices(group, "pred", classes)
    if pred is None:
        assert scores is not None
        pred = scores.argmax(1).astype(np.int64)
    if scores is None:
        count = len(classes) or int(max(gt.max(), pred.max())) + 1
        scores = np.full((len(gt), count), np.nan)
    else:
        _say_improbable(group, scores, 1, "ece, brier and nll are left out")
    for name, values in (("gt", gt), ("pred", pred)):
        wrong = (values < 0) | (values >= scores.shape[1])
        if wrong.any():
            what = f"column {name!r} has class {values[wrong][0]}; there are classes 0 to {scores.shape[1] - 1}"
            raise group.error(what, wrong)
    if not called_by_numbers(classes):
        try:
            check_counting(gt, pred, given if "pred" in group.rows else None, classes)
        except ValueError as error:
            raise group.error(str(error)) from None
    return gt, pred, scores


def _indices(group: _KeyRows, column: str, classes: tuple[str, ...]) -> Ints | None:
    """Class indices of a column of indices or names; None if the column is not there."""
    if column not in group.rows:
        return None
    labels = group.rows[column]
    empty = labels.isna().to_numpy()
    if empty.any():
        raise group.error(f"column {column!r} is empty in {int(empty.sum())} rows; leave those frames out", empty)
    task, about = group.key.task, group.about
    stored = pd.api.types.is_numeric_dtype(labels)
    if stored and called_by_numbers(classes) and not about.places and task in about.classes:
        raise group.error(
            f"column {column!r} holds integers, and classes are called by numbers ({', '.join(classes)}): places from "
            "0, or names? Store it as text, which is names"
        )
    try:
        return places_of(labels, classes, about.places, how_to_name(task, group.path))
    except ValueError as error:
        row, words = error.args
        raise group.error(f"row {row}: column {column!r}: {words}") from None


def _say_improbable(group: _KeyRows, scores: Floats, total: float | None, without: str) -> Bools:
    """Which rows are no probabilities, bool [n]; told with the first one and what is `without` them."""
    wrong = improbable(scores, total)
    if wrong.any():
        first = int(wrong.argmax())
        shown = ", ".join(f"{value:.4g}" for value in scores[first][:8]) + (" ..." if scores.shape[1] > 8 else "")
        group.say(
            f"{group.key.task}: the scores of {int(wrong.sum())} of {len(wrong)} rows are no probabilities (row "
            f"{group.rows.index[first]}: {shown}); {without}"
        )
    return wrong


def _several(group: _KeyRows, classes: tuple[str, ...]) -> tuple[Ints, Ints, Floats]:
    """0/1 labels and scores of a task with any number of labels a frame."""
    gt, scores = _lists(group, "gt_labels", classes), _lists(group, "scores", classes)
    pred = _lists(group, "pred_labels", classes)
    if gt is None or (scores is None and pred is None):
        raise group.error(
            f"no columns {lacking('gt_' if gt is None else 'score_', group.columns)}; needs 'gt_labels' (or "
            "gt_<class>) and 'scores' (or score_<class>) or 'pred_labels' (or pred_<class>), one value per class; "
            f"found {', '.join(group.columns)}"
        )
    if scores is not None:
        wrong = _say_improbable(group, scores, None, "ece and brier are left out")
        if pred is None and wrong.any():
            what = f"scores are no probabilities, so {THRESHOLD} is no threshold for them; give 'pred_labels'"
            raise group.error(f"{what} (or pred_<class>)", wrong)
        pred = (scores >= THRESHOLD).astype(np.float64) if pred is None else pred
    assert pred is not None
    scores = np.full(gt.shape, np.nan) if scores is None else scores
    if not gt.shape == pred.shape == scores.shape:
        raise group.error(f"gt_labels, pred_labels and scores differ in classes: {gt.shape[1]}, {pred.shape[1]}, "
                          f"{scores.shape[1]}")  # fmt: skip
    for name, values in (("gt_labels", gt), ("pred_labels", pred)):
        wrong = np.any(~np.isin(values, (0, 1)), axis=1)
        if wrong.any():
            raise group.error(f"{name} must be 0 or 1; put means of several annotators in 'gt_soft'", wrong)
    return gt.astype(np.int64), pred.astype(np.int64), scores


def _fps(group: _KeyRows) -> float:
    """As given, else from the median distance of frames in time, else 1."""
    if group.about.fps is not None:
        return float(group.about.fps)
    if "time_s" not in group.rows:
        return 1.0
    steps = group.rows.groupby("case", sort=False)["time_s"].diff().to_numpy(np.float64)
    steps = steps[steps > 0]
    return float(1 / np.median(steps)) if len(steps) else 1.0


def _unscored(group: _KeyRows, classes: tuple[str, ...]) -> tuple[int, ...]:
    names = [str(name) for name in group.about.unscored.get(group.key.task, ())]
    for name in names:
        if name not in classes:
            raise group.error(f"unscored class {name!r} is none of its classes{nearest(name, classes)}")
    return tuple(classes.index(name) for name in names)


def _folds(rows: pd.DataFrame) -> Ints | None:
    if "fold" not in rows or rows["fold"].isna().any():
        return None
    return np.unique(rows["fold"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
