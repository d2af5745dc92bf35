"""Your own frames: a folder with images and one frames.csv.

Columns: `path` (relative to the folder); `case`, `video` or both; optionally `time_s`, `split`, `phase`
(names, or integers from 0) and tools (0 or 1, empty if unlabelled): every column called `tool_<name>` or like
one of Cholec80's tools.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from trocar.downstream.datasets.base import Adapter, DatasetOptions
from trocar.downstream.datasets.names import CHOLEC80_PHASES, CHOLEC80_TOOLS, all_known, index_of
from trocar.downstream.datasets.table import LabelledFrames, LabelSpace, build_table
from trocar.errors import ConfigError, TrocarError

CSV = "frames.csv"
PREFIX = "tool_"


def _matches(root: Path) -> bool:
    return (root / CSV).is_file()


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    if options.split is not None:
        raise ConfigError(f"the folder layout has no published split {options.split!r}; give {CSV} a column `split`")
    table = pd.read_csv(root / CSV, skipinitialspace=True)
    if "path" not in table or not {"case", "video"} & set(table.columns):
        raise TrocarError(f"{root / CSV}: needs the columns `path` and `case` or `video`")
    frames = pd.DataFrame({"path": table["path"].astype(str), "frame": -1})
    frames["video"] = table["video" if "video" in table else "case"].astype(str)
    frames["case"] = table["case" if "case" in table else "video"].astype(str)
    position = frames.groupby("video").cumcount()
    frames["time_s"] = table["time_s"].astype(float) if "time_s" in table else position / options.fps
    frames["split"] = table["split"].fillna("").astype(str) if "split" in table else ""
    phases = _add_phases(frames, table, options, root / CSV)
    tools = _add_tools(frames, table, root / CSV)
    spaces = [LabelSpace("phase", "multiclass", phases), LabelSpace("tools", "multilabel", tools)]
    return build_table(root, "folder", [_thin(frames, table, options.fps)], spaces)


def _add_phases(frames: pd.DataFrame, table: pd.DataFrame, options: DatasetOptions, path: Path) -> tuple[str, ...]:
    if "phase" not in table:
        return ()
    column = table["phase"]
    if pd.api.types.is_numeric_dtype(column):
        highest = int(column.max())
        names = options.phases or tuple(str(i) for i in range(highest + 1))
        if highest >= len(names):
            raise TrocarError(f"{path}: phase {highest}, but only {len(names)} names are given")
        frames["phase"] = column
        return names
    found = sorted(column.dropna().astype(str).unique())
    names = options.phases or (CHOLEC80_PHASES if all_known(found, CHOLEC80_PHASES) else tuple(found))
    ids = {name: index_of(name, names, str(path)) for name in found}
    frames["phase"] = column.map(ids)
    return names


def _add_tools(frames: pd.DataFrame, table: pd.DataFrame, path: Path) -> tuple[str, ...]:
    known = {name.lower(): name for name in CHOLEC80_TOOLS}
    tools = []
    for column in table.columns:
        name = column.removeprefix(PREFIX) if column.startswith(PREFIX) else known.get(column.lower())
        if name is None:
            continue
        values = table[column]
        if not values.dropna().isin([0, 1]).all():
            raise TrocarError(f"{path}: tool column {column!r} holds something other than 0, 1 and empty")
        frames[f"tools/{name}"] = values
        tools.append(name)
    return tuple(tools)


def _thin(frames: pd.DataFrame, table: pd.DataFrame, fps: float) -> pd.DataFrame:
    """With times, keep the first frame of every 1/fps seconds of a video; without, keep all."""
    if "time_s" not in table:
        return frames
    tick = (frames["time_s"] * fps + 1e-6).astype(int)
    repeated = pd.DataFrame({"video": frames["video"], "tick": tick}).duplicated()
    kept: pd.DataFrame = frames.loc[~repeated]
    return kept


ADAPTER = Adapter(name="folder", expects=f"images with a {CSV}", matches=_matches, read=_read)
