"""Predictions of other people's code: columns that are called otherwise, class names, and labels that are names, places
among them, or numbers that could be either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.core.tables import is_number
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.errors import ConfigError, nearest

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
    is the beginning, with a `_` at its end.
    """
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


def called_by_numbers(classes: Sequence[str]) -> bool:
    """Whether classes are called by numbers that are not their places, such as `1` to `7`."""
    return any(map(is_number, classes)) and list(classes) != [str(place) for place in range(len(classes))]


def places_of(labels: pd.Series, classes: Sequence[str], places: bool, stranger: str) -> Ints:
    """int64 [n]: the place of every label among `classes`.

    Text is a name; where it is a number, and classes are not called by numbers, it is a place. Integers that were
    stored as such are places if `places` says so or classes are not called by numbers, else names. `stranger` says
    what to do about a name that is no class. Raises ValueError(row of `labels`, words) for a label that cannot be.
    """
    stored = pd.api.types.is_numeric_dtype(labels)
    if not stored and (labels.isin(classes).all() or not all(map(is_number, labels.unique()))):
        return _named(labels, classes, stranger)
    numbers = labels.astype(np.float64)
    odd = numbers != numbers.round()
    if odd.any():
        raise ValueError(odd.idxmax(), f"{labels[odd].iloc[0]} is no class index")
    if called_by_numbers(classes) and not (stored and places):
        written = numbers.astype(np.int64).astype(str).astype(object)
        return _named(labels.astype(object).where(labels.isin(classes), written), classes, stranger)
    return np.asarray(numbers, dtype=np.int64)


def _named(labels: pd.Series, classes: Sequence[str], stranger: str) -> Ints:
    found = labels.map({name: place for place, name in enumerate(classes)})
    lost = found.isna()
    if lost.any():
        name = str(labels[lost].iloc[0])
        listed = f"{nearest(name, classes)}; classes are: {', '.join(classes)}" if classes else stranger
        raise ValueError(lost.idxmax(), f"unknown class {name!r}{listed}")
    return np.asarray(found, dtype=np.int64)


def how_to_name(task: str, path: Path) -> str:
    """What to do about a name where a file does not say its classes."""
    beside = f'{path.with_suffix(".json").name}: {{"classes": {{"{task}": [...]}}}}'
    return (
        ": the file does not say which classes there are; give all of them "
        f"in the order of their scores with --classes NAME,NAME,..., or in {beside}; or write class indices"
    )


def check_counting(gt: Ints, pred: Ints, scores: Floats | None, classes: Sequence[str]) -> None:
    """Raises ValueError where labels that are places seem to count from 1, so that each is taken for its neighbour."""
    if scores is not None and len(gt) > 1 and bool((pred == scores.argmax(1) + 1).all()):
        raise ValueError(
            "'pred' is one more than the place of the largest score in every row: its classes count from 1, the scores "
            "from 0; subtract 1 from 'gt' and 'pred', or write the names of the classes"
        )
    lowest = int(min(gt.min(), pred.min()))
    if not classes and lowest > 0:
        highest = int(max(gt.max(), pred.max()))
        raise ValueError(
            f"'gt' and 'pred' are {lowest} to {highest}, and the file does not say which classes there are: with or "
            f"without a class 0? Give all names with --classes, such as {','.join(map(str, range(1, highest + 1)))} "
            "in a CSV file; integers of Parquet are places and count from 0"
        )
