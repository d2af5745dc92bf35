"""M2CAI16-tool: 15 videos with seven tools once a second, 10 for training and 5 for test.

The videos are Cholec80's 67..76 (training) and 61, 62, 64, 65, 66 (test).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from trocar.core.tables import read_table
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.m2cai16 import OFFICIAL, check_split, label_files, videos
from trocar.downstream.datasets.names import CHOLEC80_TOOLS, index_of
from trocar.downstream.datasets.readers.label_times import refuse_seconds, unlabelled_end
from trocar.downstream.datasets.readers.videos import every_nth_second, left_out, located
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table

COUNTS = {"train": 10, "test": 5}


def _matches(root: Path) -> bool:
    return bool(label_files(root, "tool"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    check_split(options)
    missing: list[str] = []
    parts, notes = [], []
    for split, path, clip in videos(label_files(root, "tool"), missing):
        labels = _labels(path)
        refuse_seconds(labels["frame"], clip.end_s, clip.rate, path)
        last_s = float(clip.seconds([labels["frame"].max()])[0])
        # Ids are native frames, one label a second.
        labels = labels[every_nth_second(pd.Series(clip.seconds(labels["frame"]).round(), labels.index), options.fps)]
        part, said = located(labels, clip, root, path.stem)
        notes += said + unlabelled_end(last_s, clip.end_s, path.stem)
        parts.append(part.assign(case=path.stem, split=split))
    for split, count in COUNTS.items():
        found = sum(part["split"].iloc[0] == split for part in parts if len(part))
        if found != count:
            notes.append(f"{found} of {count} {split} videos are here")
    notes += left_out("labelled videos that are missing", missing)
    return build_table(root, ADAPTER.name, parts, [LabelSpace("tools", "multilabel", CHOLEC80_TOOLS)], notes=notes)


def _labels(path: Path) -> pd.DataFrame:
    table = read_table(path, separator="\t")
    columns = {"frame": table.whole("Frame", 0)}
    for name in table.names[1:]:
        tool = CHOLEC80_TOOLS[index_of(name, CHOLEC80_TOOLS, str(path))]
        columns[f"tools/{tool}"] = table.flags(name)
    found: pd.DataFrame = pd.DataFrame(columns)
    return found


ADAPTER = DATASETS.register(
    Adapter(
        name="m2cai16_tool",
        expects="train_dataset/tool_video_01.mp4 with tool_video_01.txt, test_dataset/ the same",
        matches=_matches,
        read=_read,
        splits={OFFICIAL: {}},
        default_split=OFFICIAL,
    )
)
