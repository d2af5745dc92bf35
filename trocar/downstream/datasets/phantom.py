"""What `trocar phantom` writes: Cholec80's folders with Endoscapes' CVS table and masks beside them.

Phases and tools are those of one frame a second, CVS of key frames (the mean of three graders). There is a mask of
every native frame; those of the frames in the table are used.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trocar.core.tables import read_table
from trocar.data.media.delivered_files import listed, video_key
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.cholec80 import ADAPTER as CHOLEC80
from trocar.downstream.datasets.cholec80 import PHANTOM_FILE
from trocar.downstream.datasets.readers.masks import read_indices
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table
from trocar.errors import TrocarError

VIDEO_FILE, CVS_FILE, MASK_FOLDER, CLASS_FILE = "videos.csv", "all_metadata.csv", "semseg", "seg_label_map.txt"
BACKGROUND = "background"
CRITERIA = ("C1", "C2", "C3")


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    for name in (VIDEO_FILE, CVS_FILE, CLASS_FILE):  # written last
        if not (root / name).is_file():
            raise TrocarError(f"{root}: {name} is missing: this phantom is not finished; run `trocar phantom` again")
    data = CHOLEC80.read(root, options)
    rate, classes = _rates(root), _classes(root)
    frames = data.frames.merge(_criteria(root), on=["video", "frame"], how="outer")
    frames = frames.merge(_masks(root), on=["video", "frame"], how="left")
    frames = frames[frames["video"].isin(data.frames["video"])].reset_index(drop=True)
    for column in ("path", "case", "split"):
        frames[column] = frames["video"].map(data.frames.groupby("video")[column].first())
    frames["time_s"] = frames["frame"] / frames["video"].map(rate)
    spaces = [
        *data.spaces,
        LabelSpace("cvs", "multilabel", CRITERIA, soft=True),
        LabelSpace(
            "segmentation",
            "mask",
            classes,
            background=classes.index(BACKGROUND) if BACKGROUND in classes else None,
            white_is_suspect=True,
            read_mask=partial(read_indices, classes=len(classes)),
        ),
    ]
    return build_table(root, ADAPTER.name, [frames], spaces, notes=data.notes)


def _rates(root: Path) -> pd.Series:
    """Native frames per second by video."""
    table = read_table(root / VIDEO_FILE)
    rates: pd.Series = pd.Series(table.numbers("fps", 0), index=[video_key(video) for video in table.ids("video")])
    return rates


def _classes(root: Path) -> tuple[str, ...]:
    """Names of the classes of masks: `0 background` and so on, in order."""
    table = read_table(root / CLASS_FILE, separator=" ", header=False)
    if len(table.names) != 2 or table.whole(table.names[0]).tolist() != list(range(len(table))):
        raise table.error("expected lines of a number and a name, counted from 0")
    return tuple(table.ids(table.names[1]))


def _criteria(root: Path) -> pd.DataFrame:
    """Rows of graded frames: video, native frame, the mean of the graders per criterion."""
    table = read_table(root / CVS_FILE)
    criteria = {f"cvs/{name}": table.numbers(name, 0, 1) for name in CRITERIA}
    rows: pd.DataFrame = pd.DataFrame({"video": table.ids("vid"), "frame": table.whole("frame", 0), **criteria})
    graded: pd.DataFrame = rows[table.flags("is_ds_keyframe") == 1]
    return graded


def _masks(root: Path) -> pd.DataFrame:
    """`semseg/video01/video01_000295.png` is the mask of native frame 295."""
    files = listed(root / MASK_FOLDER, "*/*.png")
    numbers = [path.stem.rpartition("_")[2] for path in files]
    strange = next((path for path, number in zip(files, numbers, strict=True) if not number.isdecimal()), None)
    if strange is not None:
        raise TrocarError(f"{strange}: expected a name that ends in the number of its frame")
    rows: dict[str, Any] = {
        "video": [path.parent.name for path in files],
        "frame": np.array(numbers, dtype=np.int64),
        "mask": [path.relative_to(root).as_posix() for path in files],
    }
    found: pd.DataFrame = pd.DataFrame(rows)
    return found


ADAPTER = DATASETS.register(
    Adapter(
        name="phantom",
        expects=f"{PHANTOM_FILE} with videos/, {CVS_FILE} and {MASK_FOLDER}/",
        matches=lambda root: (root / PHANTOM_FILE).is_file(),
        read=_read,
    )
)
