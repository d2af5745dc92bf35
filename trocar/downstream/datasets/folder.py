"""Your own frames: a folder with images or videos and one frames.csv; class names in an optional classes.yaml.

Columns: `path` (relative to the folder); `case`, `video` or both; and what there is of

- `time_s` (seconds within the video), `split` (train, val, test);
- `source`: the published data set or the hospital that a case comes from, for the leak guard;
- `frame`: native frame index, for rows whose path is a video; needs `time_s`;
- `phase`, `step`: names, or integers: places among the names of classes.yaml from 0, else names themselves;
- `tool_<name>`, or a column called like one of Cholec80's tools: 0, 1 or empty (unlabelled);
- `cvs_<criterion>`: 0 to 1 (a mean of several annotators is soft), or empty;
- for a task of a plugin a column called like it, of names or integers (one label a frame), or columns `<task>_<class>`
  of 0, 1 or empty (any number of labels);
- `mask`: path of an image whose value is the class index, 255 where a pixel is not scored. It is of the task under
  which classes.yaml names the classes: `segmentation` or a plugin's task of masks.

classes.yaml lists names in the order of their integers under `phase`, `step` and `segmentation` (and under a plugin's
task with one label a frame or a pixel); `background` names the class of masks that means without it leave out, and
`not_scored: 255` says that 255 is meant. Ids and names stay as they are written (`001`, `NA`); only an empty cell is
empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from trocar.core import config
from trocar.core.tables import Table, is_number, of_frame, read_table
from trocar.data.labelled_data import SPLITS
from trocar.downstream.datasets.base import (
    CHOLEC80_PHASES,
    CHOLEC80_TOOLS,
    DATASETS,
    Adapter,
    DatasetOptions,
    all_known,
    index_of,
)
from trocar.downstream.datasets.readers.label_files import refuse_numbers_of_seconds
from trocar.downstream.datasets.readers.masks import MASK_KEYS, mask_keys, read_indices
from trocar.downstream.datasets.readers.videos import probe
from trocar.downstream.labels import UNLABELLED, LabelledFrames, LabelSpace, build_table
from trocar.downstream.tasks.base import TASKS, Task
from trocar.errors import ConfigError, TrocarError, nearest

CSV, CLASSES = "frames.csv", "classes.yaml"
NAMED = ("phase", "step", "segmentation")
BUILT_IN = (*NAMED, "tools", "cvs", "triplet")
"""Tasks whose columns are told above; triplets have none here."""
MOST_OFF_S = 0.5
"""Seconds between a row's `time_s` and the time of its picture that are said."""
Names = tuple[str, ...]


@dataclass(frozen=True)
class LabelTable:
    """Labels that are no file: the columns of frames.csv, and class names as in classes.yaml: task -> its names."""

    frames: pd.DataFrame
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def read(self, root: Path, options: DatasetOptions) -> LabelledFrames:
        """The labelled frames of pictures below `root`.

        Raises ConfigError for an unknown task among `classes`, TrocarError as for a file, with rows counted from 1.
        """
        named = _named()
        for task in self.classes:
            if task not in named:
                raise ConfigError(f"classes: no task {task!r}{nearest(task, named)}; expected {', '.join(named)}")
        names = {task: tuple(map(str, given)) for task, given in self.classes.items()}
        return _labelled(root, of_frame(root / "the table of labels", self.frames), options, names)


def _matches(root: Path) -> bool:
    return (root / CSV).is_file()


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    return _labelled(root, read_table(root / CSV), options, _class_names(root))


def _labelled(root: Path, table: Table, options: DatasetOptions, names: dict[str, Names]) -> LabelledFrames:
    if options.split is not None:
        raise ConfigError(f"the folder layout has no published split {options.split!r}; give {CSV} a column `split`")
    if "path" not in table or not {"case", "video"} & set(table.names):
        raise table.error(f"needs the columns `path` and `case` or `video`; found {', '.join(table.names)}")
    if "frame" in table and "time_s" not in table:
        raise table.error("rows with a `frame` of a video need `time_s` too")
    frames = _locators(table, options.fps)
    phases, notes = _add_ids("phase", frames, table, options.phases or names.get("phase", ()))
    steps, said = _add_ids("step", frames, table, names.get("step", ()))
    spaces = [
        LabelSpace("phase", "multiclass", phases),
        LabelSpace("step", "multiclass", steps),
        LabelSpace("tools", "multilabel", _add_tools(frames, table)),
        _add_criteria(frames, table),
        _add_masks(frames, table, names),
    ]
    for task in (task for task in _of_plugins() if not task.masks):
        space, more = _add_task(task, frames, table, names.get(task.name, ()))
        spaces.append(space)
        notes += more
    kept = _thin(frames, table, options.fps)
    notes += said + _check_times(root, kept, table.path)
    if len(kept) < len(frames):
        notes.append(f"{len(kept)} of {len(frames)} rows used, at {options.fps:g} per second")
    data = build_table(root, "folder", [kept], spaces, notes=notes)
    return replace(data, sources=_sources(frames, table), untimed="time_s" not in table)


def _sources(frames: pd.DataFrame, table: Table) -> dict[str, str]:
    """Case -> its `source`, where it has one. Raises TrocarError for a case of two."""
    found: dict[str, str] = {}
    if "source" not in table:
        return found
    for index, (case, source) in enumerate(zip(frames["case"], table.texts("source"), strict=True)):
        if source and found.setdefault(case, source) != source:
            raise table.error(f"case {case!r} is of source {source!r} here and of {found[case]!r} above", index)
    return found


def _of_plugins() -> list[Task]:
    return [task for name, task in TASKS.items() if name not in BUILT_IN]


def _named() -> Names:
    """Tasks whose classes may be named in classes.yaml."""
    return (*NAMED, *(task.name for task in _of_plugins() if task.kind != "multilabel"))


def _add_task(task: Task, frames: pd.DataFrame, table: Table, given: Names) -> tuple[LabelSpace, list[str]]:
    """The labels of a task of a plugin, and notes on them."""
    if task.kind == "multiclass":
        classes, notes = _add_ids(task.name, frames, table, given)
        return task.space(classes), notes
    columns = [column for column in table.names if column.startswith(f"{task.name}_")]
    names = tuple(column.removeprefix(f"{task.name}_") for column in columns)
    for column, name in zip(columns, names, strict=True):
        frames[f"{task.name}/{name}"] = table.flags(column, gaps=True)
    return task.space(names), []


def _class_names(root: Path) -> dict[str, Names]:
    path = root / CLASSES
    if not path.is_file():
        return {}
    try:
        tree = config.parse_yaml_texts(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrocarError(f"{path}: not valid YAML: {error}") from None
    if isinstance(tree, dict):
        tree = {task: names for task, names in tree.items() if task not in MASK_KEYS}
    for task, names in tree.items() if isinstance(tree, dict) else [("", tree)]:
        listed = _named()
        if task not in listed:
            raise TrocarError(
                f"{path}: no task {task!r}{nearest(str(task), (*listed, *MASK_KEYS))}; expected lists under "
                f"{', '.join(listed)}, and {', '.join(MASK_KEYS)}"
            )
        if not isinstance(names, list) or not names or len({str(name) for name in names if name}) != len(names):
            raise TrocarError(f"{path}: {task}: expected a list of different names")
    return {task: tuple(str(name) for name in names) for task, names in tree.items()}


def _locators(table: Table, fps: float) -> pd.DataFrame:
    """What a row is of. Raises TrocarError for rows that are there twice, and for times of a video that are."""
    frame = table.whole("frame", 0, gap=-1) if "frame" in table else np.full(len(table), -1, dtype=np.int64)
    frames: pd.DataFrame = pd.DataFrame({"path": table.ids("path"), "frame": frame})
    frames["video"] = table.ids("video" if "video" in table else "case")
    frames["case"] = table.ids("case" if "case" in table else "video")
    frames["split"] = table.choices("split", SPLITS, gaps=True) if "split" in table else ""
    table.once(*(name for name in ("path", "frame") if name in table))
    if "time_s" not in table:
        frames["time_s"] = frames.groupby("video").cumcount() / fps
        return frames
    frames["time_s"] = table.numbers("time_s", 0)
    again = frames.duplicated(["video", "time_s"]).to_numpy()
    if again.any():
        video, time = frames.loc[int(again.argmax()), ["video", "time_s"]]
        raise table.error(
            f"video {video!r} has a row at time_s {time:g} already; two pictures of a video have different times, and "
            "pictures without times leave `time_s` out",
            int(again.argmax()),
        )
    _refuse_seconds(table.path, frames[frames["frame"] >= 0])
    return frames


def _refuse_seconds(path: Path, frames: pd.DataFrame) -> None:
    """Raises TrocarError for videos whose column frame counts seconds. Only those that look like it are opened."""
    for video, rows in frames.groupby("path", sort=False):
        alike = (rows["frame"] == rows["time_s"].round()).all() and rows["frame"].max() > 0
        if alike and (path.parent / str(video)).is_file():
            rate = probe(path.parent / str(video)).rate
            refuse_numbers_of_seconds(rows["frame"], rows["time_s"], rate, f"{path}: {video}")


def _check_times(root: Path, frames: pd.DataFrame, labels: Path) -> list[str]:
    """Notes on rows of videos whose `time_s` is not when their picture is shown.

    Raises TrocarError for a picture that the video does not have, and for a video that cannot be read.
    """
    notes = []
    for name, rows in frames[frames["frame"] >= 0].groupby("path", sort=False):
        path = root / str(name)
        if not path.is_file():
            continue  # said of all missing files together
        clip, last = probe(path), int(rows["frame"].max())
        if last >= clip.frames:
            raise TrocarError(f"{labels}: frame {last} of {name} is labelled, but it has {clip.frames}, from 0 on")
        off = float(np.abs(clip.seconds(rows["frame"]) - rows["time_s"]).max())
        if off > MOST_OFF_S:
            notes.append(
                f"{name}: `time_s` is up to {off:.1f} s off the times at which its pictures are shown; they are taken "
                "by `frame`"
            )
    return notes


def _add_ids(task: str, frames: pd.DataFrame, table: Table, given: Names) -> tuple[Names, list[str]]:
    """Column `task` of class indices; returns the class names, and a note where integers may count from 1."""
    if task not in table or not table.filled(task).any():
        return (), []
    found = sorted(text for text in table.first_rows(task) if text)
    if all(map(is_number, found)) and not any(map(is_number, given)):
        return _add_numbers(task, frames, table, given)
    published = task == "phase" and all_known(found, CHOLEC80_PHASES)
    names = given or (CHOLEC80_PHASES if published else tuple(found))
    frames[task] = table.codes(task, lambda text: index_of(text, names), gap=UNLABELLED)
    return names, []


def _add_numbers(task: str, frames: pd.DataFrame, table: Table, given: Names) -> tuple[Names, list[str]]:
    """Integers are places among the `given` names; without any, classes are called by their numbers, from the lowest to
    the highest, so that labels from 1 have no class 0.
    """
    numbers = table.whole(task, 0, gap=UNLABELLED)
    low, high = int(numbers[numbers >= 0].min()), int(numbers.max())
    if not given:
        frames[task] = np.where(numbers >= 0, numbers - low, UNLABELLED)
        return tuple(str(number) for number in range(low, high + 1)), []
    if high >= len(given):
        raise table.error(
            f"{task} {high}: there are {len(given)} names, so integers are 0 to {len(given) - 1}; write the names "
            "where yours count from 1",
            int(numbers.argmax()),
        )
    frames[task] = numbers
    return given, [f"no {task} is 0 ({given[0]!r}): integers count from 0, in the order of the names"] if low else []


def _add_tools(frames: pd.DataFrame, table: Table) -> Names:
    known = {name.lower(): name for name in CHOLEC80_TOOLS}
    tools: list[str] = []
    for column in table.names:
        name = column.removeprefix("tool_") if column.startswith("tool_") else known.get(column.lower())
        if name is None:
            continue
        if name in tools:
            raise table.error(f"two columns are of the tool {name!r}; rename one")
        frames[f"tools/{name}"] = table.flags(column, gaps=True)
        tools.append(name)
    return tuple(tools)


def _add_criteria(frames: pd.DataFrame, table: Table) -> LabelSpace:
    columns = [column for column in table.names if column.startswith("cvs_")]
    criteria = tuple(column.removeprefix("cvs_") for column in columns)
    for column, criterion in zip(columns, criteria, strict=True):
        frames[f"cvs/{criterion}"] = table.numbers(column, 0, 1, gaps=True)
    values = frames[[f"cvs/{criterion}" for criterion in criteria]]
    soft = bool((values.notna() & ~values.isin([0, 1])).any(axis=None))
    return LabelSpace("cvs", "multilabel", criteria, soft=soft)


def _add_masks(frames: pd.DataFrame, table: Table, names: Mapping[str, Names]) -> LabelSpace:
    """The column `mask`, of the one task of masks whose classes are named. Raises TrocarError where it is not one."""
    tasks = [name for name, task in TASKS.items() if task.masks]
    named = [task for task in tasks if task in names]
    if "mask" in table and table.filled("mask").any():
        if not named:
            where = " or ".join(f"`{task}`" for task in tasks)
            raise table.error(f"masks need the names of their classes: list them in {CLASSES} under {where}")
        if len(named) > 1:
            raise table.error(f"the column `mask` is of one task: {CLASSES} names classes of {' and '.join(named)}")
        frames["mask"] = table.texts("mask")
    if "mask" not in frames:
        return LabelSpace("segmentation", "mask", ())
    (task,) = named
    classes = names[task]
    background, white_is_meant = mask_keys(table.path.with_name(CLASSES), classes)
    return LabelSpace(
        task,
        "mask",
        classes,
        background=background,
        white_is_suspect=not white_is_meant,
        read_mask=partial(read_indices, classes=len(classes)),
    )


def _thin(frames: pd.DataFrame, table: Table, fps: float) -> pd.DataFrame:
    """With times, keep the first frame of every 1/fps seconds of a video; without, keep all."""
    if "time_s" not in table:
        return frames
    tick = (frames["time_s"] * fps + 1e-6).astype(int)
    repeated = pd.DataFrame({"video": frames["video"], "tick": tick}).duplicated()
    kept: pd.DataFrame = frames.loc[~repeated]
    return kept


ADAPTER = DATASETS.register(Adapter(name="folder", expects=f"images with a {CSV}", matches=_matches, read=_read))
