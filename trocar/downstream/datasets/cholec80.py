"""Cholec80's layout: videos/, phase_annotations/, tool_annotations/, and an optional videos.csv beside them.

Phase files have one row per native frame, tool files one per second; both carry the native frame index, and
they are joined by it, never by position (tool rows end up to a second before or after the phase rows in some
videos).
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pandas as pd

from trocar.downstream.datasets.base import Adapter, DatasetOptions
from trocar.downstream.datasets.names import index_of, phase_set
from trocar.downstream.datasets.splits import CHOLEC80 as SPLITS
from trocar.downstream.datasets.splits import published_split
from trocar.downstream.datasets.table import LabelledFrames, LabelSpace, build_table
from trocar.errors import ConfigError, TrocarError

PHASE_FOLDER, TOOL_FOLDER = "phase_annotations", "tool_annotations"
PHASE_SUFFIX, TOOL_SUFFIX = "-phase.txt", "-tool.txt"


def _matches(root: Path) -> bool:
    return (root / "videos").is_dir() and any((root / name).is_dir() for name in (PHASE_FOLDER, TOOL_FOLDER))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    phase_files = _label_files(root / PHASE_FOLDER, PHASE_SUFFIX)
    tool_files = _label_files(root / TOOL_FOLDER, TOOL_SUFFIX)
    if not phase_files and not tool_files:
        raise TrocarError(f"{root}: no *{PHASE_SUFFIX} or *{TOOL_SUFFIX} files found")
    phase_tables = {video: _read_table(path) for video, path in phase_files.items()}
    tool_tables = {video: _read_table(path) for video, path in tool_files.items()}
    phases = _phase_names(phase_tables, options)
    tools = _tool_names(tool_tables, tool_files)
    videos = sorted({*phase_tables, *tool_tables})
    about = _metadata(root, videos, options)
    parts, notes = [], []
    for video in videos:
        path = _video_file(root, video)
        count, rate = _probe(path)
        labels = _join(
            phase_tables.get(video), tool_tables.get(video), phase_files.get(video), phases, rate, options.fps
        )
        labels, dropped = _within(labels, count, rate, path)
        if dropped:
            notes.append(f"{video}: {dropped} labels after the last of {count} frames left out")
        part = labels.assign(path=str(path.relative_to(root)), video=video, time_s=labels["frame"] / rate)
        parts.append(part.assign(case=about.loc[video, "case_id"], split=about.loc[video, "split"]))
    spaces = [LabelSpace("phase", "multiclass", phases), LabelSpace("tools", "multilabel", tools)]
    return build_table(root, "cholec80", parts, spaces, notes=notes)


def _label_files(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.name.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}"))}


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pd.read_csv(path, sep="\t")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise TrocarError(f"{path}: not a tab-separated table: {error}") from None
    if table.columns[0] != "Frame" or len(table.columns) < 2:
        raise TrocarError(f"{path}: expected a header `Frame<TAB>...`, found {list(table.columns)}")
    return table


def _phase_names(tables: dict[str, pd.DataFrame], options: DatasetOptions) -> tuple[str, ...]:
    if options.phases:
        return options.phases
    found = sorted({str(name) for table in tables.values() for name in table["Phase"].unique()})
    return phase_set(found, PHASE_FOLDER) if found else ()


def _tool_names(tables: dict[str, pd.DataFrame], files: dict[str, Path]) -> tuple[str, ...]:
    names: tuple[str, ...] = ()
    for video, table in tables.items():
        own = tuple(str(name) for name in table.columns[1:])
        if names and own != names:
            raise TrocarError(f"{files[video]}: tools {', '.join(own)}, other files have {', '.join(names)}")
        names = own
    return names


def _join(
    phase: pd.DataFrame | None,
    tool: pd.DataFrame | None,
    phase_file: Path | None,
    phases: tuple[str, ...],
    rate: float,
    fps: float,
) -> pd.DataFrame:
    """Rows at `fps`: the tool file's own frames where it has them, phase rows at round(k * rate / fps)
    elsewhere.
    """
    tools: pd.DataFrame = (
        tool.rename(columns=_tool_column) if tool is not None else pd.DataFrame({"frame": []}, dtype=np.int64)
    )
    if fps < 1:
        tools = tools.iloc[:: round(1 / fps)]
    if phase is None:
        return tools
    every = max(rate / fps, 1.0)
    last = int(phase["Frame"].max())
    grid = np.unique(np.round(np.arange(0, last / every + 1) * every).astype(np.int64))
    if len(tools) and fps <= 1:
        grid = np.union1d(tools["frame"].to_numpy(), grid[grid > tools["frame"].max()])
    rows = phase[phase["Frame"].isin(grid)]
    ids = {name: index_of(str(name), phases, str(phase_file)) for name in rows["Phase"].unique()}
    labelled = pd.DataFrame({"frame": rows["Frame"], "phase": rows["Phase"].map(ids)})
    joined = labelled.merge(tools, on="frame", how="outer" if fps <= 1 else "left")
    ordered: pd.DataFrame = joined.sort_values("frame")
    return ordered


def _tool_column(name: str) -> str:
    return "frame" if name == "Frame" else f"tools/{name}"


def _within(labels: pd.DataFrame, count: int, rate: float, path: Path) -> tuple[pd.DataFrame, int]:
    """Leave out labels up to one second after the last frame; more than that means labels of another
    video.
    """
    over = labels["frame"] >= count
    if over.any() and labels["frame"].max() >= count + rate + 1:
        raise TrocarError(
            f"{path}: has {count} frames, but its labels go to frame {labels['frame'].max()}; "
            "is the video truncated, or re-encoded at another frame rate?"
        )
    return labels.loc[~over], int(over.sum())


def _video_file(root: Path, video: str) -> Path:
    for suffix in (".mp4", ".avi", ".mkv", ".mov"):
        if (root / "videos" / f"{video}{suffix}").is_file():
            return root / "videos" / f"{video}{suffix}"
    raise TrocarError(f"{root}: videos/{video}.mp4 is missing, but its labels are there")


def _probe(path: Path) -> tuple[int, float]:
    """Number of frames and native frame rate of a video, from the container."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0)
            return stream.frames or sum(1 for _ in container.demux(stream)) - 1, rate
    except (av.FFmpegError, IndexError) as error:
        raise TrocarError(f"{path}: cannot be opened as a video: {error}") from None


def _metadata(root: Path, videos: list[str], options: DatasetOptions) -> pd.DataFrame:
    """case_id and split per video: videos.csv if there is one, a published list if asked for, else one case
    per video.
    """
    about: pd.DataFrame = pd.DataFrame({"case_id": videos, "split": ""}, index=videos)
    path = root / "videos.csv"
    if path.is_file():
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "video" not in table or table["video"].duplicated().any():
            raise TrocarError(f"{path}: needs a column `video` that names every video once")
        table = table.set_index("video")
        unlisted = [video for video in videos if video not in table.index]
        if unlisted:
            raise TrocarError(f"{path}: no row for the labelled video {unlisted[0]!r}")
        for column in ("case_id", "split"):
            if column in table:
                about[column] = table.loc[videos, column]
    if options.split is not None:
        if path.is_file():
            raise ConfigError(f"{path} has its own splits; a published list ({options.split}) does not apply")
        about["split"] = pd.Series(published_split(options.split, SPLITS, videos))
    return about


ADAPTER = Adapter(
    name="cholec80",
    expects=f"videos/ with {PHASE_FOLDER}/ or {TOOL_FOLDER}/",
    matches=_matches,
    read=_read,
    splits=SPLITS,
)
