"""predictions.parquet on the disk: its rows, and what they do not say. Files from other code in the same columns are
read alike; docs/metrics.md has the table of columns.

Predictions of other people's code: columns that are called otherwise.

Class names of predictions files, and labels that are names, places among them, or numbers that could be either.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trocar.core.files import writing
from trocar.core.tables import Table, is_number, read_table
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.metrics.registry import REGISTRY
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


LISTS = ("scores", "gt_labels", "pred_labels", "gt_soft")
"""Columns with one value per class: lists in Parquet; in CSV one column per class, `<prefix>_<class>`."""

PREFIXES = {"scores": "score_", "gt_labels": "gt_", "pred_labels": "pred_", "gt_soft": "soft_"}
SAID = ("classes", "fps", "unscored", "background")
"""What a file says beside its rows, as JSON."""
MASKS = "segmentation"
"""The task whose rows are masks: `mask_predictions` reads them."""
_TEXTS = ("task", "backbone", "protocol", "case", "video", "path", "gt_mask", "pred_mask")
_NUMBERS = ("seed", "replicate", "draw", "start", "frame", "time_s")


class RunIndex(NamedTuple):
    """Which run of a contender with a protocol: of which of its replicates (seeds of its weights), on which draw of the
    label budget, from which random start of the protocol; all from 0.
    """

    replicate: int = 0
    draw: int = 0
    start: int = 0


class Key(NamedTuple):
    """What one outcome is of: a task, backbone and protocol, and the three numbers of `RunIndex`. Columns that a file
    does not have are '' and 0.
    """

    task: str
    backbone: str
    protocol: str
    replicate: int = 0
    draw: int = 0
    start: int = 0

    @property
    def run(self) -> RunIndex:
        """Which run of the backbone with the protocol."""
        return RunIndex(self.replicate, self.draw, self.start)

    @classmethod
    def of(cls, row: pd.Series) -> Key:
        """From a row of a table that `with_keys` has checked."""
        numbers = (int(row[name]) for name in RunIndex._fields)
        return cls(str(row["task"]), str(row["backbone"]), str(row["protocol"]), *numbers)


@dataclass(frozen=True)
class About:
    """What the rows do not say: names of `classes`, of those that are `unscored` and of the `background` per task, and
    labelled frames per second (None: from the times). `places`: integers in `gt` and `pred` are places among the
    names, as `write_predictions` has them; in a file of other code they may be names.
    """

    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fps: float | None = None
    unscored: Mapping[str, Sequence[str]] = field(default_factory=dict)
    background: Mapping[str, str] = field(default_factory=dict)
    places: bool = True


def write_predictions(table: pd.DataFrame, path: Path, about: About) -> None:
    """Write `table` as Parquet with `about` in its metadata (`trocar.classes`, `trocar.fps`,
    `trocar.unscored`, `trocar.background`; JSON), complete or not at all.
    """
    values = {name: getattr(about, name) for name in SAID}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {f"trocar.{name}": json.dumps(value) for name, value in values.items()}
    # A file of Python's: Arrow's own says neither which one it was nor, in a way to be read, what was wrong.
    with writing(path) as file:
        pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata}), file)


def read_predictions(path: Path) -> tuple[pd.DataFrame, About]:
    """The rows of a Parquet or CSV file, numbered in its index as `core.tables` numbers them. What they do not say
    comes from the Parquet metadata, or from `<file name without ending>.json` beside it, with the keys classes, fps,
    unscored and background; in CSV the class names are in the columns.

    Ids and words are text as written, missing where empty; times, seeds and values per class are numbers. `gt` and
    `pred` of CSV are text, of Parquet what they are there. Raises TrocarError if it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    table = read_table(path)
    found, own = _metadata(table), "trocar.classes" in table.metadata
    sidecar = path.with_suffix(".json")
    try:
        if sidecar.is_file():
            found |= json.loads(sidecar.read_text(encoding="utf-8"))
        words = {name: found.get(name) or {} for name in ("classes", "unscored", "background")}
        about = About(fps=found.get("fps"), places=own, **words)
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise TrocarError(f"{sidecar}: not the JSON of a predictions file ({error})") from None
    columns = {name: _column(table, name) for name in table.names if not name.startswith("__index_level_")}
    return pd.DataFrame(columns, index=pd.Index(table.rows)), about


def with_keys(table: pd.DataFrame, path: Path, task: str | None) -> pd.DataFrame:
    """The table with all columns of `Key`, checked. Other code tells runs apart by one column `seed`: it becomes
    `replicate`.
    """
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
    numbers = [name for name in ("seed", *RunIndex._fields) if name in table]
    if "seed" in numbers and len(numbers) > 1:
        raise TrocarError(
            f"{path}: columns {', '.join(numbers)}: 'seed' is another name of 'replicate', leave it out or rename it"
        )
    for name in ("task", *numbers):
        empty = table[name].isna()
        if empty.any():
            raise TrocarError(
                f"{path}: row {empty.idxmax()}: column {name!r} is empty in {int(empty.sum())} rows; fill it in"
            )
    for name in numbers:
        odd = table[name] != table[name].round()
        if odd.any():
            raise TrocarError(f"{path}: row {odd.idxmax()}: column {name!r} has values that are not whole numbers")
    table = table.rename(columns={"seed": "replicate"})
    return table.assign(**{name: 0 for name in RunIndex._fields if name not in table})


def _column(table: Table, name: str) -> Any:
    """Values [n] of the types that `read_predictions` names."""
    kind = table.stored(name).type
    if name in _NUMBERS:
        return table.numbers(name, 0 if name == "time_s" else -float("inf"), gaps=True)
    if name in _TEXTS:
        return [text or None for text in table.texts(name)]
    if name == "fold":
        return [text or None for text in table.texts(name, floats=True)]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if name in LISTS:
            raise table.error(f"column {name!r} is text; give a column {PREFIXES[name]}<class> for each class")
        if name.startswith(tuple(PREFIXES.values())):
            try:
                return table.numbers(name, gaps=True)
            except TrocarError:
                pass  # as text: it counts only where it turns out to be of a class, and is refused there
        return [text or None for text in table.texts(name)]
    return table.stored(name).to_pandas().to_numpy()


def _metadata(table: Table) -> dict[str, Any]:
    try:
        return {
            name: json.loads(table.metadata[f"trocar.{name}"]) for name in SAID if f"trocar.{name}" in table.metadata
        }
    except ValueError as error:
        raise table.error(f"its metadata cannot be read ({error})") from None
