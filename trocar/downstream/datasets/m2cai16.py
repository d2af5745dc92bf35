"""The two data sets of the M2CAI16 challenge: videos and label files side by side, split by folder.

M2CAI16-workflow: 41 videos with a phase for every native frame, 27 for training and 14 for test. There is no validation
split. Papers that select on the test videos report optimistic numbers.

M2CAI16-tool: 15 videos with seven tools once a second, 10 for training and 5 for test. They are Cholec80's 67..76
(training) and 61, 62, 64, 65, 66 (test).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from trocar.core.tables import read_table
from trocar.data.media.delivered_files import listed
from trocar.downstream.datasets.base import CHOLEC80_TOOLS, DATASETS, PHASE_SETS, Adapter, DatasetOptions, index_of
from trocar.downstream.datasets.readers.label_files import refuse_seconds, unlabelled_end
from trocar.downstream.datasets.readers.videos import Clip, every_nth_second, find_clip, left_out, located
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table
from trocar.errors import ConfigError, nearest

FOLDERS = {"train": "train_dataset", "test": "test_dataset"}
COUNTS = {"workflow": {"train": 27, "test": 14}, "tool": {"train": 10, "test": 5}}
OFFICIAL = "official"
NO_LABELS = ("_timestamp", "_pred")
"""Endings of text files that lie beside the labels: times of the frames, and predictions in the challenge's format."""

LabelsOf = Callable[[Path, Clip], tuple[pd.DataFrame, pd.Series]]
"""Label file and video -> all labels of it with the column `frame`, and which of them are used."""


def _read_workflow(root: Path, options: DatasetOptions) -> LabelledFrames:
    phases = options.phases or PHASE_SETS["m2cai16"]

    def labels(path: Path, clip: Clip) -> tuple[pd.DataFrame, pd.Series]:
        table = read_table(path, separator="\t")
        phase = table.codes("Phase", lambda name: index_of(name, phases))
        found = pd.DataFrame({"frame": table.whole("Frame", 0), "phase": phase})
        return found, found["frame"].isin(clip.grid(int(found["frame"].max()), options.fps))

    return _read(root, options, "workflow", labels, LabelSpace("phase", "multiclass", phases))


def _read_tools(root: Path, options: DatasetOptions) -> LabelledFrames:
    def labels(path: Path, clip: Clip) -> tuple[pd.DataFrame, pd.Series]:
        table = read_table(path, separator="\t")
        columns = {"frame": table.whole("Frame", 0)}
        for name in table.names[1:]:
            columns[f"tools/{CHOLEC80_TOOLS[index_of(name, CHOLEC80_TOOLS, str(path))]}"] = table.flags(name)
        found = pd.DataFrame(columns)
        # Ids are native frames, one label a second.
        return found, every_nth_second(pd.Series(clip.seconds(found["frame"]).round(), found.index), options.fps)

    return _read(root, options, "tool", labels, LabelSpace("tools", "multilabel", CHOLEC80_TOOLS))


def _read(root: Path, options: DatasetOptions, kind: str, labels_of: LabelsOf, space: LabelSpace) -> LabelledFrames:
    if options.split not in (None, OFFICIAL):
        hint = nearest(str(options.split), [OFFICIAL])
        raise ConfigError(f"no published split {options.split!r}{hint}; M2CAI16 has one: {OFFICIAL}")
    missing: list[str] = []
    parts, notes = [], []
    for split, path, clip in _videos(_label_files(root, kind), missing):
        labels, used = labels_of(path, clip)
        refuse_seconds(labels["frame"], clip.end_s, clip.rate, path)
        last_s = float(clip.seconds([labels["frame"].max()])[0])
        part, said = located(labels[used], clip, root, path.stem)
        notes += said + unlabelled_end(last_s, clip.end_s, path.stem)
        parts.append(part.assign(case=path.stem, split=split))
    for split, count in COUNTS[kind].items():
        found = sum(part["split"].iloc[0] == split for part in parts if len(part))
        if found != count:
            notes.append(f"{found} of {count} {split} videos are here")
    notes += left_out("labelled videos that are missing", missing)
    return build_table(root, f"m2cai16_{kind}", parts, [space], notes=notes)


def _label_files(root: Path, kind: str) -> list[tuple[str, Path]]:
    """(split, label file) of every video whose name has `<kind>_video_` in it."""
    return [
        (split, path)
        for split, folder in FOLDERS.items()
        for path in listed(root / folder, f"*{kind}_video_*.txt")
        if not path.stem.endswith(NO_LABELS)
    ]


def _videos(files: list[tuple[str, Path]], missing: list[str]) -> Iterator[tuple[str, Path, Clip]]:
    """(split, label file, video); the names of those without a video go to `missing`."""
    for split, path in files:
        clip = find_clip([path.parent], path.stem)
        if clip is None:
            missing.append(path.stem)
        else:
            yield split, path, clip


DATASETS.register(
    Adapter(
        name="m2cai16_workflow",
        expects="train_dataset/workflow_video_01.mp4 with workflow_video_01.txt, "
        "test_dataset/test_workflow_video_01.mp4",
        matches=lambda root: bool(_label_files(root, "workflow")),
        read=_read_workflow,
        splits={OFFICIAL: {}},
        default_split=OFFICIAL,
    )
)
DATASETS.register(
    Adapter(
        name="m2cai16_tool",
        expects="train_dataset/tool_video_01.mp4 with tool_video_01.txt, test_dataset/ the same",
        matches=lambda root: bool(_label_files(root, "tool")),
        read=_read_tools,
        splits={OFFICIAL: {}},
        default_split=OFFICIAL,
    )
)
