"""Predictions of test frames, as rows in memory and as predictions.parquet on the disk.

Files of other code in the same columns are read alike; docs/metrics.md has the table of columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trocar.core.files import writing
from trocar.core.tables import Table, read_table
from trocar.downstream.metrics.outcome import Bools
from trocar.downstream.predictions.foreign_columns import lacking, with_classes
from trocar.downstream.tasks import get_task
from trocar.downstream.tasks.base import TASKS
from trocar.errors import ConfigError, TrocarError, nearest

LISTS = ("scores", "gt_labels", "pred_labels", "gt_soft")
"""Columns with one value per class: lists in Parquet; in CSV one column per class, `<prefix>_<class>`."""

PREFIXES = {"scores": "score_", "gt_labels": "gt_", "pred_labels": "pred_", "gt_soft": "soft_"}
SAID = ("classes", "fps", "unscored", "background")
"""What a file says beside its rows, as JSON."""
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


@dataclass(frozen=True)
class About:
    """What the rows do not say: names of `classes`, of those that are `unscored` and of the `background` per task, and
    labelled frames per second (None: from the times). `places`: integers in `gt` and `pred` are places among the
    names, as `Predictions.write` has them; in a file of other code they may be names.
    """

    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fps: float | None = None
    unscored: Mapping[str, Sequence[str]] = field(default_factory=dict)
    background: Mapping[str, str] = field(default_factory=dict)
    places: bool = True


@dataclass(frozen=True)
class RunRows:
    """The rows of one run in the order of time, and what is needed to explain an error. A column of another payload or
    task in the same file is empty for this run, and left out.
    """

    path: Path
    key: Key
    rows: pd.DataFrame
    about: About

    @property
    def columns(self) -> list[str]:
        """Those of the file."""
        return [str(name) for name in self.rows.columns if name not in Key._fields]

    def error(self, what: str, wrong: Bools | None = None) -> TrocarError:
        """With the number of the first row that is `wrong`, bool [n]."""
        row = "" if wrong is None else f"row {self.rows.index[int(wrong.argmax())]}: "
        return TrocarError(f"{self.path}: task {self.key.task!r}: {row}{what}")


@dataclass(frozen=True)
class Predictions:
    """Predictions of test frames by any number of backbones, with protocols, in runs. Every number that is shown of an
    evaluation is computed from them.

    `table` has the columns of `Key` (`case` and, where they are known, `video`, `time_s`, `path`, `frame` and `fold`),
    and one of two payloads a row: labels and scores of a frame, or the confusion matrix of a mask. `path` is the file
    that they are in or go to; masks are named relative to its folder.
    """

    table: pd.DataFrame
    about: About
    path: Path

    @classmethod
    def read(cls, path: Path, task: str | None = None, classes: Sequence[str] = ()) -> Predictions:
        """A Parquet or CSV file, its rows numbered in the index as `core.tables` numbers them. What they do not say
        comes from the Parquet metadata, or from `<file name without ending>.json` beside it, with the keys classes,
        fps, unscored and background; in CSV the class names are in the columns.

        `task` keeps one task, and names the task of a file without such a column; `classes` names its classes, where
        the file does not. Ids and words are text as written, missing where empty; times, numbers of runs and values per
        class are numbers. `gt` and `pred` of CSV are text, of Parquet what they are there. Raises ConfigError for an
        unknown task, TrocarError for a file that cannot be read or has no rows of the task.
        """
        if task is not None:
            get_task(task)
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        table, about = _read(path)
        named = table["task"].dropna().unique() if "task" in table else ()
        about = replace(about, classes=with_classes(about.classes, classes, task, named, path))
        table = _with_keys(table, path, task)
        table = table if task is None else table[table["task"] == task]
        if table.empty:
            raise TrocarError(f"{path}: no predictions{f' of task {task!r}' if task else ''} in it")
        return cls(table, about, path)

    def write(self) -> None:
        """Write `table` to `path` as Parquet with `about` in its metadata (`trocar.classes`, `trocar.fps`,
        `trocar.unscored`, `trocar.background`; JSON), complete or not at all.
        """
        values = {name: getattr(self.about, name) for name in SAID}
        arrow = pa.Table.from_pandas(self.table, preserve_index=False)
        metadata = {f"trocar.{name}": json.dumps(value) for name, value in values.items()}
        # A file of Python's: Arrow's own says neither which one it was nor, in a way to be read, what was wrong.
        with writing(self.path) as file:
            pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata}), file)

    def runs(self) -> Iterator[RunRows]:
        """The rows of one run after another, in the order of their first rows.

        Raises TrocarError for a task that nothing is known of, and for frames that are there twice or have no case.
        """
        for _, rows in self.table.groupby(list(Key._fields), sort=False):
            first = rows.iloc[0]
            run = RunIndex(*(int(first[name]) for name in RunIndex._fields))
            key = Key(str(first["task"]), str(first["backbone"]), str(first["protocol"]), *run)
            found = RunRows(self.path, key, rows.dropna(axis=1, how="all"), self.about)
            if key.task not in TASKS:
                known = ", ".join(TASKS.names())
                raise found.error(f"unknown task{nearest(key.task, TASKS.names())}; tasks: {known}")
            _check_frames(found)
            yield replace(found, rows=_in_time_order(found.rows))


def _check_frames(run: RunRows) -> None:
    rows = run.rows
    for name in ("case", "time_s"):
        empty = rows[name].isna().to_numpy() if name in rows else np.zeros(0, dtype=bool)
        if empty.any():
            raise run.error(f"column {name!r} is empty in {int(empty.sum())} rows; fill it in", empty)
    if "case" not in rows:
        raise run.error("column 'case' is empty")
    frame = [name for name in ("case", "video", "path", "frame", "time_s") if name in rows]
    if "time_s" in rows or "frame" in rows:
        again = rows.duplicated(frame).to_numpy()
        if again.any():
            where = ", ".join(f"{name} {rows[again].iloc[0][name]}" for name in frame)
            what = f"{int(again.sum())} frames are there twice (the first: {where}); tell runs apart by 'replicate'"
            raise run.error(what, again)


def _in_time_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by case, video and time; videos of a case stay in the order of their first row."""
    if "time_s" not in rows:
        return rows
    video = pd.factorize(rows["video"])[0] if "video" in rows else np.zeros(len(rows), dtype=np.int64)
    order = np.lexsort((rows["time_s"], video, rows["case"].astype(str)))
    ordered: pd.DataFrame = rows.iloc[order]
    return ordered


def _with_keys(table: pd.DataFrame, path: Path, task: str | None) -> pd.DataFrame:
    """The table with all columns of `Key`, checked. Other code tells runs apart by one column `seed`: it becomes
    `replicate`.
    """
    if "task" not in table:
        if task is None:
            raise TrocarError(f"{path}: no column 'task'; add it or say --task ({', '.join(TASKS.names())})")
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


def _read(path: Path) -> tuple[pd.DataFrame, About]:
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
