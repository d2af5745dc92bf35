"""predictions.parquet on the disk: its rows, and what they do not say. Files from other code in the same columns are
read alike; docs/metrics.md has the table of columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trocar.core.files import writing
from trocar.core.tables import Table, read_table
from trocar.downstream.metrics.registry import REGISTRY
from trocar.downstream.predictions.foreign_columns import lacking
from trocar.errors import ConfigError, TrocarError

LISTS = ("scores", "gt_labels", "pred_labels", "gt_soft")
"""Columns with one value per class: lists in Parquet; in CSV one column per class, `<prefix>_<class>`."""

PREFIXES = {"scores": "score_", "gt_labels": "gt_", "pred_labels": "pred_", "gt_soft": "soft_"}
SAID = ("classes", "fps", "unscored", "background")
"""What a file says beside its rows, as JSON."""
MASKS = "segmentation"
"""The task whose rows are masks: `mask_predictions` reads them."""
_TEXTS = ("task", "backbone", "protocol", "case", "video", "path", "gt_mask", "pred_mask")
_NUMBERS = ("seed", "frame", "time_s")


class Key(NamedTuple):
    """What one outcome is of. Columns that a file does not have are '' and 0."""

    task: str
    backbone: str
    protocol: str
    seed: int


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
        empty = table[name].isna()
        if empty.any():
            raise TrocarError(
                f"{path}: row {empty.idxmax()}: column {name!r} is empty in {int(empty.sum())} rows; fill it in"
            )
    odd = table["seed"] != table["seed"].round()
    if odd.any():
        raise TrocarError(f"{path}: row {odd.idxmax()}: column 'seed' has values that are not whole numbers")
    return table


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
