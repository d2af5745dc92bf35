"""predictions.parquet: what it must hold, and how its rows become outcomes. Files from other code in the same
columns are read alike; docs/metrics.md has the table of columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trocar.downstream.metrics.outcome import Floats, Ints, Outcome
from trocar.downstream.metrics.registry import MULTILABEL, REGISTRY
from trocar.downstream.prediction_columns import lacking, separated, stranger, with_classes
from trocar.errors import ConfigError, TrocarError, nearest
from trocar.files import writing

LISTS = ("scores", "gt_labels", "pred_labels", "gt_soft")
"""Columns with one value per class: lists in Parquet; in CSV one column per class, `<prefix>_<class>`."""

PREFIXES = {"scores": "score_", "gt_labels": "gt_", "pred_labels": "pred_", "gt_soft": "soft_"}
THRESHOLD = 0.5
MASKS = "segmentation"
"""The task whose rows are masks: `mask_predictions` reads them."""


class Key(NamedTuple):
    """What one outcome is of. Columns that a file does not have are '' and 0."""

    task: str
    backbone: str
    protocol: str
    seed: int


@dataclass(frozen=True)
class About:
    """What the rows do not say: `classes` and `unscored` class names per task, and labelled frames per second
    (None: from the times).
    """

    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fps: float | None = None
    unscored: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Group:
    """The rows of one key in time order, and what is needed to explain an error."""

    path: Path
    key: Key
    rows: pd.DataFrame
    about: About

    @property
    def columns(self) -> list[str]:
        """Those of the file."""
        return [str(name) for name in self.rows.columns if name not in Key._fields]

    def error(self, what: str) -> TrocarError:
        return TrocarError(f"{self.path}: task {self.key.task!r}: {what}")


def write_predictions(table: pd.DataFrame, path: Path, about: About) -> None:
    """Write `table` as Parquet with `about` in its metadata (`trocar.classes`, `trocar.fps`,
    `trocar.unscored`; JSON), complete or not at all.
    """
    values = {"classes": about.classes, "fps": about.fps, "unscored": about.unscored}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {f"trocar.{name}": json.dumps(value) for name, value in values.items()}
    # A file of Python's: Arrow's own says neither which one it was nor, in a way to be read, what was wrong.
    with writing(path) as file:
        pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata}), file)


def read_predictions(path: Path) -> tuple[pd.DataFrame, About]:
    """The rows of a Parquet or CSV file. What they do not say comes from the Parquet metadata, or from
    `<file name without ending>.json` beside it, with the keys classes, fps and unscored; in CSV the class
    names are in the columns.

    Raises TrocarError if it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".csv":
            table = separated(pd.read_csv(path), path)
            found: dict[str, Any] = {}
        else:
            arrow = pq.read_table(path)
            table = arrow.to_pandas()
            found = _metadata(arrow.schema.metadata or {})
        sidecar = path.with_suffix(".json")
        if sidecar.is_file():
            found |= json.loads(sidecar.read_text(encoding="utf-8"))
        about = About(found.get("classes") or {}, found.get("fps"), found.get("unscored") or {})
    except (ValueError, pa.ArrowException, AttributeError, TypeError) as error:
        raise TrocarError(f"{path}: cannot be read as predictions ({error}); give a Parquet or CSV file") from error
    return table, about


def outcomes(path: Path, task: str | None = None, classes: Sequence[str] = ()) -> dict[Key, Outcome]:
    """One outcome per task, backbone, protocol and seed in the file.

    `task` keeps one task, and names the task of a file without such a column; `classes` names its classes, where the
    file does not. Raises ConfigError for an unknown task, TrocarError for missing columns or values that cannot be
    (each says what is needed).
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
        first = rows.iloc[0]
        key = Key(str(first["task"]), str(first["backbone"]), str(first["protocol"]), int(first["seed"]))
        if task in (None, key.task):
            # A column of another task in the same file is empty here: as good as not there.
            group = _Group(path, key, rows.dropna(axis=1, how="all"), about)
            _check_frames(group)
            found[key] = _outcome(replace(group, rows=_in_time_order(group.rows)))
    if not found and not masks.any():
        raise TrocarError(f"{path}: no predictions{f' of task {task!r}' if task else ''} in it")
    return found


def with_keys(table: pd.DataFrame, path: Path, task: str | None) -> pd.DataFrame:
    """The table with all columns of `Key`, checked."""
    if "task" not in table:
        if task is None:
            raise TrocarError(f"{path}: no column 'task'; add it or say --task ({', '.join((*REGISTRY, MASKS))})")
        table = table.assign(task=task)
    if "case" not in table:
        known = [name for name in table.columns if name != "task"]
        raise TrocarError(
            f"{path}: no column {lacking('case', known)}: the operation of each frame; found {', '.join(known)}"
        )
    table = table.assign(**{name: "" for name in ("backbone", "protocol") if name not in table})
    table = table.fillna({"backbone": "", "protocol": ""})
    table = table if "seed" in table else table.assign(seed=0)
    for name in ("task", "seed"):
        if table[name].isna().any():
            raise TrocarError(f"{path}: column {name!r} is empty in {int(table[name].isna().sum())} rows; fill it in")
    if not _whole(table["seed"]):
        raise TrocarError(f"{path}: column 'seed' has values that are not whole numbers")
    return table


def _metadata(raw: Mapping[bytes, bytes]) -> dict[str, Any]:
    names = ("classes", "fps", "unscored")
    return {name: json.loads(raw[f"trocar.{name}".encode()]) for name in names if f"trocar.{name}".encode() in raw}


def _in_time_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by case, video and time; videos of a case stay in the order of their first row."""
    if "time_s" not in rows:
        return rows
    video = pd.factorize(rows["video"])[0] if "video" in rows else np.zeros(len(rows), dtype=np.int64)
    order = np.lexsort((rows["time_s"], video, rows["case"].astype(str)))
    ordered: pd.DataFrame = rows.iloc[order]
    return ordered


def _outcome(group: _Group) -> Outcome:
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
        soft=_lists(group, "gt_soft", classes),
        unscored=_unscored(group, classes),
        fold=_folds(rows),
    )


def _check_frames(group: _Group) -> None:
    rows = group.rows
    for name in ("case", "time_s"):
        if name in rows and rows[name].isna().any():
            raise group.error(f"column {name!r} is empty in {int(rows[name].isna().sum())} rows; fill it in")
    if "case" not in rows:
        raise group.error("column 'case' is empty")
    frame = [name for name in ("case", "video", "path", "frame", "time_s") if name in rows]
    if "time_s" in rows or "frame" in rows:
        twice = rows[rows.duplicated(frame)]
        if len(twice):
            where = ", ".join(f"{name} {twice.iloc[0][name]}" for name in frame)
            raise group.error(f"{len(twice)} frames are there twice (the first: {where}); tell runs apart by 'seed'")


def _classes(group: _Group) -> tuple[str, ...]:
    """Names from the metadata, else from the columns `score_<class>`, else none."""
    named = group.about.classes.get(group.key.task)
    if named is not None:
        return tuple(str(name) for name in named)
    return tuple(_columns(group, PREFIXES["scores"]) or _columns(group, PREFIXES["gt_labels"]))


def _columns(group: _Group, prefix: str) -> list[str]:
    """Class names of the columns `<prefix><class>`."""
    names = [c for c in group.rows.columns if c.startswith(prefix) and c not in LISTS]
    return [name.removeprefix(prefix) for name in names]


def _lists(group: _Group, column: str, classes: tuple[str, ...]) -> Floats | None:
    """Values per class, float64 [n, K], or None if the file has none."""
    rows, prefix = group.rows, PREFIXES[column]
    if column in rows:
        lengths = {len(v) if hasattr(v, "__len__") else 0 for v in rows[column]}
        if len(lengths) != 1:
            raise group.error(f"column {column!r} has lists of different lengths or empty ones ({sorted(lengths)})")
        return _finite(group, column, np.stack(rows[column].to_list()).astype(np.float64))
    named = _columns(group, prefix)
    if not named:
        return None
    missing = [name for name in classes if name not in named]
    if missing:
        raise group.error(f"no column {prefix}{missing[0]} (classes: {', '.join(classes)})")
    return _finite(group, prefix, rows[[prefix + name for name in classes]].to_numpy(np.float64))


def _finite(group: _Group, column: str, values: Floats) -> Floats:
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise group.error(f"column {column!r}: {len(bad)} frames have values that are not finite numbers")
    return values


def _single(group: _Group, classes: tuple[str, ...]) -> tuple[Ints, Ints, Floats]:
    """Class indices and scores of a task with one label a frame."""
    scores = _lists(group, "scores", classes)
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
    for name, values in (("gt", gt), ("pred", pred)):
        if values.min() < 0 or values.max() >= scores.shape[1]:
            wrong = int(values[(values < 0) | (values >= scores.shape[1])][0])
            raise group.error(f"column {name!r} has class {wrong}; there are classes 0 to {scores.shape[1] - 1}")
    return gt, pred, scores


def _indices(group: _Group, column: str, classes: tuple[str, ...]) -> Ints | None:
    """Class indices of a column of indices or names; None if the column is not there."""
    if column not in group.rows:
        return None
    values = group.rows[column]
    if values.isna().any():
        raise group.error(f"column {column!r} is empty in {int(values.isna().sum())} rows; leave those frames out")
    if pd.api.types.is_numeric_dtype(values):
        if not _whole(values):
            raise group.error(f"column {column!r} has values that are not class indices")
        return values.to_numpy(np.int64)
    strangers = sorted(set(values.astype(str)) - set(classes))
    if strangers:
        raise group.error(stranger(column, strangers[0], classes, group.key.task, group.path))
    return values.astype(str).map({name: i for i, name in enumerate(classes)}).to_numpy(np.int64)


def _whole(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and bool((values == values.round()).all())


def _several(group: _Group, classes: tuple[str, ...]) -> tuple[Ints, Ints, Floats]:
    """0/1 labels and scores of a task with any number of labels a frame."""
    gt, scores = _lists(group, "gt_labels", classes), _lists(group, "scores", classes)
    pred = _lists(group, "pred_labels", classes)
    if gt is None or (scores is None and pred is None):
        raise group.error(
            f"no columns {lacking('gt_' if gt is None else 'score_', group.columns)}; needs 'gt_labels' (or "
            "gt_<class>) and 'scores' (or score_<class>) or 'pred_labels' (or pred_<class>), one value per class; "
            f"found {', '.join(group.columns)}"
        )
    pred = (scores >= THRESHOLD).astype(np.float64) if pred is None and scores is not None else pred
    assert pred is not None
    scores = np.full(gt.shape, np.nan) if scores is None else scores
    if not gt.shape == pred.shape == scores.shape:
        raise group.error(f"gt_labels, pred_labels and scores differ in classes: {gt.shape[1]}, {pred.shape[1]}, "
                          f"{scores.shape[1]}")  # fmt: skip
    for name, values in (("gt_labels", gt), ("pred_labels", pred)):
        if not np.isin(values, (0, 1)).all():
            raise group.error(f"{name} must be 0 or 1; put means of several annotators in 'gt_soft'")
    return gt.astype(np.int64), pred.astype(np.int64), scores


def _fps(group: _Group) -> float:
    """As given, else from the median distance of frames in time, else 1."""
    if group.about.fps is not None:
        return float(group.about.fps)
    if "time_s" not in group.rows:
        return 1.0
    steps = group.rows.groupby("case", sort=False)["time_s"].diff().to_numpy(np.float64)
    steps = steps[steps > 0]
    return float(1 / np.median(steps)) if len(steps) else 1.0


def _unscored(group: _Group, classes: tuple[str, ...]) -> tuple[int, ...]:
    names = [str(name) for name in group.about.unscored.get(group.key.task, ())]
    for name in names:
        if name not in classes:
            raise group.error(f"unscored class {name!r} is none of its classes{nearest(name, classes)}")
    return tuple(classes.index(name) for name in names)


def _folds(rows: pd.DataFrame) -> Ints | None:
    if "fold" not in rows or rows["fold"].isna().any():
        return None
    return np.unique(rows["fold"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
