"""M2CAI16-workflow: 41 videos with a phase for every native frame, 27 for training and 14 for test.

There is no validation split. Papers that select on the test videos report optimistic numbers.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from trocar.core.tables import read_table
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.m2cai16 import OFFICIAL, check_split, label_files, videos
from trocar.downstream.datasets.names import PHASE_SETS, index_of
from trocar.downstream.datasets.readers.label_times import refuse_seconds, unlabelled_end
from trocar.downstream.datasets.readers.videos import left_out, located
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table

COUNTS = {"train": 27, "test": 14}


def _matches(root: Path) -> bool:
    return bool(label_files(root, "workflow"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    check_split(options)
    phases = options.phases or PHASE_SETS["m2cai16"]
    missing: list[str] = []
    parts, notes = [], []
    for split, path, clip in videos(label_files(root, "workflow"), missing):
        labels = _labels(path, phases)
        refuse_seconds(labels["frame"], clip.end_s, clip.rate, path)
        last_s = float(clip.seconds([labels["frame"].max()])[0])
        grid = clip.grid(int(labels["frame"].max()), options.fps)
        part, said = located(labels[labels["frame"].isin(grid)], clip, root, path.stem)
        notes += said + unlabelled_end(last_s, clip.end_s, path.stem)
        parts.append(part.assign(case=path.stem, split=split))
    for split, count in COUNTS.items():
        found = sum(part["split"].iloc[0] == split for part in parts if len(part))
        if found != count:
            notes.append(f"{found} of {count} {split} videos are here")
    notes += left_out("labelled videos that are missing", missing)
    return build_table(root, ADAPTER.name, parts, [LabelSpace("phase", "multiclass", phases)], notes=notes)


def _labels(path: Path, phases: tuple[str, ...]) -> pd.DataFrame:
    table = read_table(path, separator="\t")
    phase = table.codes("Phase", lambda name: index_of(name, phases))
    found: pd.DataFrame = pd.DataFrame({"frame": table.whole("Frame", 0), "phase": phase})
    return found


ADAPTER = DATASETS.register(
    Adapter(
        name="m2cai16_workflow",
        expects="train_dataset/workflow_video_01.mp4 with workflow_video_01.txt, "
        "test_dataset/test_workflow_video_01.mp4",
        matches=_matches,
        read=_read,
        splits={OFFICIAL: {}},
        default_split=OFFICIAL,
    )
)
