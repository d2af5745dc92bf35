"""Your own frames: a folder with images or videos and one frames.csv; class names in an optional classes.yaml.

Columns: `path` (relative to the folder); `case`, `video` or both; and what there is of

- `time_s` (seconds within the video), `split` (train, val, test);
- `frame`: native frame index, for rows whose path is a video; needs `time_s`;
- `phase`, `step`: names, or integers from 0;
- `tool_<name>`, or a column called like one of Cholec80's tools: 0, 1 or empty (unlabelled);
- `cvs_<criterion>`: 0 to 1 (a mean of several annotators is soft), or empty;
- `mask`: path of an image whose value is the class index, 255 where a pixel is not scored; needs classes.yaml.

classes.yaml lists names in the order of their integers under `phase`, `step` and `segmentation`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from trocar.downstream.datasets.base import Adapter, DatasetOptions
from trocar.downstream.datasets.masks import read_indices
from trocar.downstream.datasets.names import CHOLEC80_PHASES, CHOLEC80_TOOLS, all_known, index_of
from trocar.downstream.datasets.table import LabelledFrames, LabelSpace, build_table
from trocar.errors import ConfigError, TrocarError, nearest

CSV, CLASSES = "frames.csv", "classes.yaml"
NAMED = ("phase", "step", "segmentation")
Names = tuple[str, ...]


def _matches(root: Path) -> bool:
    return (root / CSV).is_file()


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    if options.split is not None:
        raise ConfigError(f"the folder layout has no published split {options.split!r}; give {CSV} a column `split`")
    path = root / CSV
    table = _read_csv(path)
    names = _class_names(root)
    frames = _locators(table, path, options.fps)
    phases = _add_ids("phase", frames, table, options.phases or names.get("phase", ()), path)
    steps = _add_ids("step", frames, table, names.get("step", ()), path)
    spaces = [
        LabelSpace("phase", "multiclass", phases),
        LabelSpace("step", "multiclass", steps),
        LabelSpace("tools", "multilabel", _add_tools(frames, table, path)),
        _add_criteria(frames, table, path),
        _add_masks(frames, table, names.get("segmentation", ()), path),
    ]
    kept = _thin(frames, table, options.fps)
    notes = (
        [f"{len(kept)} of {len(frames)} rows used, at {options.fps:g} per second"] if len(kept) < len(frames) else []
    )
    return build_table(root, "folder", [kept], spaces, notes=notes)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pd.read_csv(path, skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise TrocarError(f"{path}: not a table: {error}") from None
    table.columns = table.columns.str.strip()
    table = table.map(lambda value: value.strip() if isinstance(value, str) else value)
    if "path" not in table or not {"case", "video"} & set(table.columns):
        raise TrocarError(f"{path}: needs the columns `path` and `case` or `video`")
    if "frame" in table and "time_s" not in table:
        raise TrocarError(f"{path}: rows with a `frame` of a video need `time_s` too")
    return table


def _class_names(root: Path) -> dict[str, Names]:
    path = root / CLASSES
    if not path.is_file():
        return {}
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrocarError(f"{path}: not valid YAML: {error}") from None
    for task, names in tree.items() if isinstance(tree, dict) else [("", tree)]:
        if task not in NAMED:
            raise TrocarError(
                f"{path}: no task {task!r}{nearest(str(task), NAMED)}; expected lists under {', '.join(NAMED)}"
            )
        if not isinstance(names, list) or len({str(name) for name in names}) != len(names) or not names:
            raise TrocarError(f"{path}: {task}: expected a list of different names")
    return {task: tuple(str(name) for name in names) for task, names in tree.items()}


def _locators(table: pd.DataFrame, path: Path, fps: float) -> pd.DataFrame:
    frames: pd.DataFrame = pd.DataFrame({"path": table["path"].astype(str), "frame": -1})
    if "frame" in table:
        frames["frame"] = table["frame"].fillna(-1).astype(int)
    frames["video"] = table["video" if "video" in table else "case"].astype(str)
    frames["case"] = table["case" if "case" in table else "video"].astype(str)
    position = frames.groupby("video").cumcount()
    try:
        frames["time_s"] = table["time_s"].astype(float) if "time_s" in table else position / fps
    except ValueError as error:
        raise TrocarError(f"{path}: time_s: {error}") from None
    frames["split"] = table["split"].astype(object).fillna("").astype(str) if "split" in table else ""
    return frames


def _add_ids(task: str, frames: pd.DataFrame, table: pd.DataFrame, given: Names, path: Path) -> Names:
    """Column `task` of class indices; returns the class names."""
    if task not in table or table[task].isna().all():
        return ()
    column = table[task]
    if pd.api.types.is_numeric_dtype(column):
        highest = int(column.max())
        names = given or tuple(str(i) for i in range(highest + 1))
        if highest >= len(names):
            raise TrocarError(f"{path}: {task} {highest}, but only {len(names)} names are given")
        frames[task] = column
        return names
    found = sorted(column.dropna().astype(str).unique())
    published = task == "phase" and all_known(found, CHOLEC80_PHASES)
    names = given or (CHOLEC80_PHASES if published else tuple(found))
    ids = {name: index_of(name, names, str(path)) for name in found}
    frames[task] = column.map(ids)
    return names


def _add_tools(frames: pd.DataFrame, table: pd.DataFrame, path: Path) -> Names:
    known = {name.lower(): name for name in CHOLEC80_TOOLS}
    tools = []
    for column in table.columns:
        name = column.removeprefix("tool_") if column.startswith("tool_") else known.get(column.lower())
        if name is None:
            continue
        values = table[column]
        if not values.dropna().isin([0, 1]).all():
            raise TrocarError(f"{path}: tool column {column!r} holds something other than 0, 1 and empty")
        frames[f"tools/{name}"] = values
        tools.append(name)
    return tuple(tools)


def _add_criteria(frames: pd.DataFrame, table: pd.DataFrame, path: Path) -> LabelSpace:
    columns = [column for column in table.columns if column.startswith("cvs_")]
    values = table[columns]
    if columns and not all(pd.api.types.is_numeric_dtype(kind) for kind in values.dtypes):
        raise TrocarError(f"{path}: a column cvs_... holds something other than numbers and empty")
    criteria = tuple(column.removeprefix("cvs_") for column in columns)
    for column, criterion in zip(columns, criteria, strict=True):
        frames[f"cvs/{criterion}"] = table[column]
    soft = bool((values.notna() & ~values.isin([0, 1])).any(axis=None))
    return LabelSpace("cvs", "multilabel", criteria, soft=soft)


def _add_masks(frames: pd.DataFrame, table: pd.DataFrame, names: Names, path: Path) -> LabelSpace:
    if "mask" in table and table["mask"].notna().any():
        if not names:
            raise TrocarError(
                f"{path}: masks need the names of their classes: list them in {CLASSES} under `segmentation`"
            )
        frames["mask"] = table["mask"].fillna("").astype(str)
    return LabelSpace(
        "segmentation",
        "mask",
        names if "mask" in frames else (),
        read_mask=partial(read_indices, classes=len(names)),
    )


def _thin(frames: pd.DataFrame, table: pd.DataFrame, fps: float) -> pd.DataFrame:
    """With times, keep the first frame of every 1/fps seconds of a video; without, keep all."""
    if "time_s" not in table:
        return frames
    tick = (frames["time_s"] * fps + 1e-6).astype(int)
    repeated = pd.DataFrame({"video": frames["video"], "tick": tick}).duplicated()
    kept: pd.DataFrame = frames.loc[~repeated]
    return kept


ADAPTER = Adapter(name="folder", expects=f"images with a {CSV}", matches=_matches, read=_read)
