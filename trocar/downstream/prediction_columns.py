"""Predictions of other people's code: columns that are called otherwise, and class names given by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from trocar.errors import ConfigError, TrocarError, nearest

OTHERWISE: Mapping[str, Sequence[str]] = {
    "case": ("case_id", "caseid", "operation", "patient", "video", "video_id", "vid", "vid_id"),
    "gt": ("label", "labels", "truth", "target", "ground_truth", "groundtruth", "true", "y_true", "phase", "step"),
    "pred": ("prediction", "predictions", "predicted", "preds", "y_pred", "output"),
    "score_": ("prob_", "probability_", "logit_", "p_"),
    "gt_": ("label_", "truth_", "true_", "target_"),
    "pred_": ("prediction_", "predicted_"),
}
"""Column, or the beginning of columns -> what they are called elsewhere."""
_PARTS = ("gt", "pred")


def lacking(column: str, found: Iterable[str]) -> str:
    """`'gt' (is it 'label'?)`: a column that is not there, and the one that may be meant. Of several columns `column`
    is the beginning, with a `_` at its end."""
    listed = [str(name) for name in found]
    meant = _meant(column, listed)
    name = f"{column}<class>" if column.endswith("_") else column
    return f"{name!r}" + (f" (is it {meant!r}? rename it)" if meant else "")


def _meant(column: str, found: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in found}
    if column.endswith("_"):
        return next((lower[n] for n in lower for start in OTHERWISE[column] if n.startswith(start)), None)
    named = [lower[other] for other in OTHERWISE.get(column, ()) if other in lower]
    inside = [name for name in found if column in _PARTS and column in name.lower().split("_")]
    return next(iter([*named, *inside]), None)


def separated(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table of a CSV file. Raises TrocarError where something else than commas stands between its columns."""
    (name, *more) = map(str, table.columns)
    found = next((mark for mark in (";", "\t", "|") if mark in name), None)
    if not more and found is not None:
        raise TrocarError(f"{path}: its columns are separated by {found!r}; write a CSV file with commas")
    named: pd.DataFrame = table.rename(columns=str.strip)
    return named


def with_classes(
    classes: Mapping[str, Sequence[str]], given: Sequence[str], task: str | None, tasks: Iterable[str], path: Path
) -> Mapping[str, Sequence[str]]:
    """The class names of the tasks with those that were `given` for `task`, or for the only one in the file.

    Raises ConfigError where that is not a single one, or for a name that is there twice.
    """
    if not given:
        return classes
    meant = {task} if task is not None else set(tasks)
    if len(meant) != 1:
        raise ConfigError(f"--classes: {path} has {', '.join(sorted(map(str, meant)))}; say of which with --task")
    twice = next((name for name in given if list(given).count(name) > 1), None)
    if twice is not None or "" in given:
        raise ConfigError(f"--classes: give each class once, with commas between them, not {','.join(given)!r}")
    return {**classes, meant.pop(): tuple(given)}


def stranger(column: str, name: str, classes: Sequence[str], task: str, path: Path) -> str:
    """What to do about a class name in a column that is none of the classes."""
    if classes:
        return f"column {column!r}: unknown class {name!r}{nearest(name, classes)}; classes are: {', '.join(classes)}"
    beside = f'{path.with_suffix(".json").name}: {{"classes": {{"{task}": [...]}}}}'
    return (
        f"column {column!r}: unknown class {name!r}: the file does not say which classes there are; give all of them "
        f"in the order of their scores with --classes NAME,NAME,..., or in {beside}; or write class indices"
    )
