"""AutoLaparo, task 1: 21 hysterectomies with a phase for every second; labels count frames and phases from 1."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from trocar.core.tables import read_table
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.readers.label_files import unlabelled_end
from trocar.downstream.datasets.readers.videos import every_nth_second, find_clip, left_out, located_by_second
from trocar.downstream.folds import Split, not_here, published_split
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table

TASK_FOLDER = "Task 1 Surgical workflow recognition"
PHASES = (
    "Preparation",
    "Dividing Ligament and Peritoneum",
    "Dividing Uterine Vessels and Ligament",
    "Transecting the Vagina",
    "Specimen Removal",
    "Suturing",
    "Washing",
)
SPLITS: dict[str, Split] = {"official": {"train": range(1, 11), "val": range(11, 15), "test": range(15, 22)}}
OFFICIAL = {("phase", "train"): 40_211, ("phase", "val"): 14_972, ("phase", "test"): 28_060}


def _task(root: Path) -> Path:
    """The folder of task 1: in the data set's folder, or that folder itself."""
    return root / TASK_FOLDER if (root / TASK_FOLDER).is_dir() else root


def _matches(root: Path) -> bool:
    return any((_task(root) / "labels").glob("label_*.txt"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    files = {path.stem.removeprefix("label_"): path for path in sorted((_task(root) / "labels").glob("label_*.txt"))}
    clips = {video: find_clip([_task(root) / "videos"], video) for video in files}
    name = options.split or "official"
    split = published_split(name, SPLITS, files)
    notes = left_out("labelled videos that are missing", [video for video, clip in clips.items() if clip is None])
    parts = []
    for video, clip in clips.items():
        if clip is None:
            continue
        labels = _labels(files[video])
        labels = labels[every_nth_second(labels["second"], options.fps)]
        part, said = located_by_second(labels, clip, root, video)
        notes += said + unlabelled_end(float(labels["second"].max()), clip.end_s, video)
        parts.append(part.assign(case=video, split=split[video]))
    notes += not_here(name, SPLITS, [video for video, clip in clips.items() if clip is not None])
    spaces = [LabelSpace("phase", "multiclass", PHASES)]
    return build_table(root, ADAPTER.name, parts, spaces, notes=notes, official=OFFICIAL if options.fps >= 1 else None)


def _labels(path: Path) -> pd.DataFrame:
    """`second` from 0 and `phase` 0..6: frame k of the file is second k - 1 of the video."""
    table = read_table(path, separator="\t")
    frame, phase = table.whole("Frame", 1), table.whole("Phase", 1, len(PHASES))
    found: pd.DataFrame = pd.DataFrame({"second": frame - 1, "phase": phase - 1})
    return found


ADAPTER = DATASETS.register(
    Adapter(
        name="autolaparo",
        expects=f"videos/01.mp4 with labels/label_01.txt, here or in '{TASK_FOLDER}/'",
        matches=_matches,
        read=_read,
        splits=SPLITS,
        default_split="official",
    )
)
