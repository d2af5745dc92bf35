"""Cholec80's layout: videos/ or frames/, phase_annotations/, tool_annotations/, and an optional videos.csv beside them.

Phase files have one row per native frame, tool files one per second; both carry the native frame index, and they are
joined by it, never by position: tool rows end up to a second before or after the phase rows in some videos. At 1 fps
the frames are those with a tool row: 184,498 in the published data set, as many as there are 1 fps images of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from trocar.core.tables import read_table
from trocar.data.labelled_data import split_tags
from trocar.data.media.delivered_files import composed, entry, listed, video_key
from trocar.data.media.video_index import Ints
from trocar.downstream.datasets.base import (
    CHOLEC80_PHASES,
    CHOLEC80_TOOLS,
    DATASETS,
    Adapter,
    DatasetOptions,
    index_of,
    phase_set,
)
from trocar.downstream.datasets.readers.label_files import (
    first_number,
    numbered,
    read_frame_lists,
    refuse_dense,
    refuse_seconds,
    unlabelled_end,
)
from trocar.downstream.datasets.readers.videos import Clip, find_clip, frame_grid, left_out, located
from trocar.downstream.folds import CHOLEC80 as SPLITS
from trocar.downstream.folds import CHOLEC80_ENDOVIT, not_here, published_split
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table
from trocar.errors import ConfigError, TrocarError, nearest

PHASE_FOLDER, TOOL_FOLDER = "phase_annotations", "tool_annotations"
PHASE_SUFFIX, TOOL_SUFFIX = "-phase.txt", "-tool.txt"
NATIVE_FPS = 25.0
LABELLED_FRAMES = 184_498
"""Frames of the published data set with a tool row, at one a second."""
IMAGES = ("*.png", "*.jpg")
PHANTOM_FILE = "phantom.json"


@dataclass(frozen=True)
class NumberedImages:
    """1 fps images of a video by their number, counted from 1: image k shows native frame 25 * (k - 1). `first`: the
    number that the first of them has in its name.
    """

    by_number: Mapping[int, Path]
    first: int = 1

    @property
    def rate(self) -> float:
        """Native frames per second."""
        return NATIVE_FPS

    @property
    def end_s(self) -> float:
        """Seconds that the images last."""
        return float(max(self.by_number))

    def seconds(self, frames: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """When native frames are shown, float64[n]."""
        seconds: npt.NDArray[np.float64] = np.asarray(frames, dtype=np.float64) / NATIVE_FPS
        return seconds

    def grid(self, last: int, fps: float) -> Ints:
        """Native frames 0..`last`, `fps` times a second."""
        return frame_grid(last, NATIVE_FPS, fps)


@dataclass(frozen=True)
class _Files:
    """Label tables by video."""

    phase: Mapping[str, pd.DataFrame]
    tools: Mapping[str, pd.DataFrame]

    @classmethod
    def read(cls, root: Path) -> _Files:
        phase, tools = (
            {
                composed(path.name).removesuffix(suffix): read_labels(path)
                for path in listed(root / folder, f"*{suffix}")
            }
            for folder, suffix in ((PHASE_FOLDER, PHASE_SUFFIX), (TOOL_FOLDER, TOOL_SUFFIX))
        )
        if not phase and not tools:
            raise TrocarError(f"{root}: no *{PHASE_SUFFIX} or *{TOOL_SUFFIX} files found")
        return cls(phase, tools)

    @property
    def videos(self) -> list[str]:
        return sorted({*self.phase, *self.tools})


def _matches(root: Path) -> bool:
    if (root / PHANTOM_FILE).is_file():  # has more labels, and an adapter of its own
        return False
    pictures = any((root / name).is_dir() for name in ("videos", "frames"))
    return pictures and any((root / name).is_dir() for name in (PHASE_FOLDER, TOOL_FOLDER))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    files = _Files.read(root)
    phases, tools = _phase_names(files.phase, options), _tool_names(files.tools, root)
    found = {video: pictures_of(root, video) for video in files.videos}
    pictures = {video: source for video, source in found.items() if source is not None}
    if not pictures:
        first = files.videos[0]
        raise TrocarError(
            f"{root}: videos/{first}.mp4 is missing, and so is frames/{first}/, as for every labelled video"
        )
    about, notes = _metadata(root, list(pictures), options)
    case, split = (dict(zip(pictures, about[name].astype(str), strict=True)) for name in ("case_id", "split"))
    notes += _missing(files, list(pictures))
    parts = []
    for video, source in pictures.items():
        part, said = _one(root, video, source, files, phases, options.fps)
        notes += said
        parts.append(part.assign(case=case[video], split=split[video]))
    if options.fps > 1 and any(isinstance(source, NumberedImages) for source in pictures.values()):
        notes.append("images are one a second: no more frames are taken from them")
    published = _is_published(root, pictures, phases, tools)
    budgets, said = _budgets(root, case) if published else ({}, [])
    official, counted = _official(options, sum(map(len, parts))) if published else ({}, [])
    spaces = [LabelSpace("phase", "multiclass", phases), LabelSpace("tools", "multilabel", tools)]
    return build_table(
        root, ADAPTER.name, parts, spaces, notes=notes + counted + said, budgets=budgets, official=official
    )


def _one(
    root: Path, video: str, source: Clip | NumberedImages, files: _Files, phases: tuple[str, ...], fps: float
) -> tuple[pd.DataFrame, list[str]]:
    fps = min(fps, 1.0) if isinstance(source, NumberedImages) else fps
    phase, tools = files.phase.get(video), files.tools.get(video)
    check_times(root, video, source, phase, tools)
    labels, said = _join(video, phase, tools, phases, source, fps)
    part, dropped = place(labels, source, root, video)
    last_s = float(source.seconds([labels["frame"].max()])[0])
    return part, said + dropped + unlabelled_end(last_s, source.end_s, video)


def check_times(
    root: Path, video: str, source: Clip | NumberedImages, phase: pd.DataFrame | None, tools: pd.DataFrame | None = None
) -> None:
    """Raises TrocarError where a label file seems to count seconds instead of native frames, or images that should be
    one a second are more than the labels have seconds.
    """
    last = -1
    for table, folder, suffix in ((phase, PHASE_FOLDER, PHASE_SUFFIX), (tools, TOOL_FOLDER, TOOL_SUFFIX)):
        if table is not None and len(table):
            refuse_seconds(table["Frame"], source.end_s, source.rate, root / folder / f"{video}{suffix}")
            last = max(last, int(table["Frame"].max()))
    if isinstance(source, NumberedImages) and last >= 0:
        refuse_dense(max(source.by_number) - 1, last // int(NATIVE_FPS), f"{root}: frames/{video}")


def _missing(files: _Files, pictures: list[str]) -> list[str]:
    notes = left_out("labelled videos whose pictures are missing", [v for v in files.videos if v not in pictures])
    if files.tools and files.phase:
        notes += left_out("videos without tool labels", [v for v in pictures if v not in files.tools])
        notes += left_out("videos without phase labels", [v for v in pictures if v not in files.phase])
    return notes


def _official(options: DatasetOptions, found: int) -> tuple[dict[tuple[str, str], int], list[str]]:
    """The number of frames is published for all videos at 1 fps, not per split."""
    if options.fps != 1:
        return {}, []
    off = found != LABELLED_FRAMES
    notes = [f"{found} frames at 1 fps; the published data set has {LABELLED_FRAMES}"] if off else []
    return {} if options.split else {("phase", ""): LABELLED_FRAMES, ("tools", ""): LABELLED_FRAMES}, notes


def read_labels(path: Path) -> pd.DataFrame:
    """A phase or tool file: `Frame`, int64, and `Phase`, its name, or a column of 0 and 1 per tool."""
    table = read_table(path, separator="\t")
    if table.names[0] != "Frame" or len(table.names) < 2:
        raise table.error(f"expected a header `Frame<TAB>...`, found {list(table.names)}")
    of_phases = path.name.endswith(PHASE_SUFFIX)
    labels = {"Phase": table.ids("Phase")} if of_phases else {name: table.flags(name) for name in table.names[1:]}
    found: pd.DataFrame = pd.DataFrame({"Frame": table.whole("Frame", 0), **labels})
    return found


def pictures_of(root: Path, video: str) -> Clip | NumberedImages | None:
    """The video file, else its 1 fps images, else None."""
    clip = find_clip([root / "videos"], video)
    if clip is not None:
        return clip
    folder = entry(root / "frames", video)
    names = [f"{escape(folder.name)}_{kind}" for kind in IMAGES]
    images = numbered(path for name in names for path in listed(folder, name))
    first = first_number(images)
    return NumberedImages({number - first + 1: path for number, path in images.items()}, first) if images else None


def is_native(source: Clip | NumberedImages) -> bool:
    """Whether frame indices count at the published rate: every picture is shown within a frame of its time by it, and
    of 0.04 %, as a clock may run at 24.99.
    """
    if isinstance(source, NumberedImages):
        return True
    times = source.index.times
    return bool((np.abs(times - np.arange(len(times)) / NATIVE_FPS) <= 1 / NATIVE_FPS + 4e-4 * times).all())


def place(
    labels: pd.DataFrame, source: Clip | NumberedImages, root: Path, video: str
) -> tuple[pd.DataFrame, list[str]]:
    """Labels with native frame indices as rows of the table, and notes on those that have no picture.

    Raises TrocarError for an image that is missing between others.
    """
    if isinstance(source, Clip):
        return located(labels, source, root, video)
    whole = labels["frame"] % int(NATIVE_FPS) == 0
    rows, between = labels[whole], int((~whole).sum())
    number = rows["frame"] // int(NATIVE_FPS) + 1
    last = max(source.by_number)
    over = number > last
    if over.any() and number.max() > last + 1:
        raise TrocarError(
            f"{root}: frames/{video} ends with image {last - 1 + source.first}, of second {last - 1}, but its labels "
            f"go to second {int(number.max()) - 1}"
        )
    rows, number = rows[~over], number[~over]
    absent = {n: root / "frames" / video / f"{video}_{n - 1 + source.first:06d}.png" for n in number}
    paths = [source.by_number.get(n, absent[n]) for n in number]
    notes = [f"{video}: {int(over.sum())} labels after the last of {last} images left out"] if over.any() else []
    notes += [f"{video}: {between} labels between the seconds that images show left out"] if between else []
    shown = [str(path.relative_to(root)) for path in paths]
    return rows.assign(frame=-1, path=shown, video=video, time_s=number - 1.0), notes


def _phase_names(tables: Mapping[str, pd.DataFrame], options: DatasetOptions) -> tuple[str, ...]:
    if options.phases:
        return options.phases
    found = sorted({str(name).strip() for table in tables.values() for name in table["Phase"].unique()})
    return phase_set(found, PHASE_FOLDER) if found else ()


def _tool_names(tables: Mapping[str, pd.DataFrame], root: Path) -> tuple[str, ...]:
    headers = {video: tuple(str(name) for name in table.columns[1:]) for video, table in tables.items()}
    names = Counter(headers.values()).most_common(1)[0][0] if headers else ()
    for video, own in headers.items():
        if own != names:
            path = root / TOOL_FOLDER / f"{video}{TOOL_SUFFIX}"
            raise TrocarError(f"{path}: tools {', '.join(own)}, most files have {', '.join(names)}")
    return names


def _join(
    video: str,
    phase: pd.DataFrame | None,
    tool: pd.DataFrame | None,
    phases: tuple[str, ...],
    source: Clip | NumberedImages,
    fps: float,
) -> tuple[pd.DataFrame, list[str]]:
    """Rows at `fps`: the tool file's own frames where it has them, elsewhere the phase rows of the pictures on display
    at these times.
    """
    tools: pd.DataFrame = (
        tool.rename(columns=_tool_column) if tool is not None else pd.DataFrame({"frame": []}, dtype=np.int64)
    )
    end = int(tools["frame"].max()) if len(tools) else -1
    if fps < 1:
        tools = tools.iloc[:: round(1 / fps)]
    if phase is None:
        return tools, []
    grid, notes = source.grid(int(phase["Frame"].max()), fps), []
    if len(tools) and fps <= 1:
        behind = grid[grid > end]
        late = source.seconds(behind) <= source.seconds([end])[0] + 1
        if late.any():
            notes.append(f"{video}: {int(late.sum())} phase labels within a second behind the last tool label left out")
        grid = np.union1d(tools["frame"].to_numpy(), behind[~late])
    rows = phase[phase["Frame"].isin(grid)]
    ids = {
        name: index_of(str(name), phases, f"{PHASE_FOLDER}/{video}{PHASE_SUFFIX}") for name in rows["Phase"].unique()
    }
    labels = pd.DataFrame({"frame": rows["Frame"], "phase": rows["Phase"].map(ids)})
    joined = labels.merge(tools, on="frame", how="outer" if fps <= 1 else "left").sort_values("frame")
    lone = int(joined["phase"].isna().sum())
    if lone:
        notes.append(f"{video}: {lone} tool labels without a phase label")
    return joined, notes


def _tool_column(name: str) -> str:
    return "frame" if name == "Frame" else f"tools/{name}"


def _metadata(root: Path, videos: list[str], options: DatasetOptions) -> tuple[pd.DataFrame, list[str]]:
    """case_id and split per video: videos.csv if there is one, a published list if asked for, else one case a video."""
    about: pd.DataFrame = pd.DataFrame({"case_id": videos, "split": ""}, index=videos)
    path = root / "videos.csv"
    if path.is_file():
        table = read_table(path)
        place: dict[str, int] = {}
        for index, name in enumerate(map(video_key, table.ids("video"))):
            if name in place:
                raise table.error(f"video {name!r} is there twice (also in row {table.rows[place[name]]})", index)
            place[name] = index
        unlisted = [video for video in videos if video not in place]
        if unlisted:
            raise TrocarError(f"{path}: no row for the labelled video {unlisted[0]!r}{nearest(unlisted[0], place)}")
        rows = [place[video] for video in videos]
        if "case_id" in table:
            given = table.texts("case_id")[rows]
            about["case_id"] = [case or video for case, video in zip(given, videos, strict=True)]
        if "split" in table:
            about["split"] = split_tags(table)[rows]
    if options.split is None:
        return about, []
    if path.is_file():
        raise ConfigError(f"{path} has its own splits; a published list ({options.split}) does not apply")
    about["split"] = pd.Series(published_split(options.split, SPLITS, videos))
    return about, not_here(options.split, SPLITS, videos)


def _is_published(
    root: Path, pictures: Mapping[str, Clip | NumberedImages], phases: tuple[str, ...], tools: tuple[str, ...]
) -> bool:
    """Whether these are videos of Cholec80 itself, not another data set in its layout."""
    names = {f"video{number:02d}" for number in range(1, 81)}
    labels = phases in ((), CHOLEC80_PHASES) and tools in ((), CHOLEC80_TOOLS)
    native = all(map(is_native, pictures.values()))
    return labels and native and set(pictures) <= names and not (root / "videos.csv").is_file()


def _budgets(root: Path, case: Mapping[str, str]) -> tuple[dict[str, list[list[str]]], list[str]]:
    """EndoViT's lists, and SelfSupSurg's where its files are under labels/; without those whose videos are not here."""
    lists: dict[str, list[list[str]]] = {
        name: [[f"video{number:02d}" for number in draw] for draw in draws] for name, draws in CHOLEC80_ENDOVIT.items()
    }
    for percent, tag in (("12.5", "12p5"), ("25", "25")):
        files = sorted((root / "labels").rglob(f"1fps_{tag}_[0-9].pickle"))
        # Class weights lie beside the lists under the same names, in a folder of their own.
        draws = [sorted(read_frame_lists(path)) for path in files if "classweights" not in path.parts]
        if draws:
            lists[f"selfsupsurg-{percent}%"] = draws
    kept = {name: draws for name, draws in lists.items() if all(v in case for draw in draws for v in draw)}
    notes = left_out(
        "label budgets not offered, since videos of theirs are missing", [n for n in lists if n not in kept]
    )
    return {name: [[case[video] for video in draw] for draw in draws] for name, draws in kept.items()}, notes


ADAPTER = DATASETS.register(
    Adapter(
        name="cholec80",
        expects=f"videos/ or frames/ with {PHASE_FOLDER}/ or {TOOL_FOLDER}/",
        matches=_matches,
        read=_read,
        splits=SPLITS,
    )
)
