"""Cholec80-CVS: the critical view of safety in Cholec80's videos, from one workbook of scored intervals.

As its authors' code has it: a video counts up to the frame before its first clipping, of that its last 15 % from a
whole second on; a criterion is met where its score is 1 or 2; a frame in no interval meets none. They draw five frames
at random from every second; here frames lie evenly, `fps` a second, so that two runs see the same ones.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions, canonical
from trocar.downstream.datasets.cholec80 import (
    NATIVE_FPS,
    PHASE_FOLDER,
    PHASE_SUFFIX,
    NumberedImages,
    check_times,
    is_native,
    pictures_of,
    place,
    read_labels,
)
from trocar.downstream.datasets.readers.label_files import read_sheet
from trocar.downstream.datasets.readers.videos import Clip, left_out
from trocar.downstream.folds import Split, not_here, published_split
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table
from trocar.errors import TrocarError

CRITERIA = {"C1": "two_structures", "C2": "hepatocystic_triangle", "C3": "cystic_plate"}
"""Criterion -> column. The workbook has them in another order than the field's C1, C2, C3."""
TIMES = ("initial_minute", "initial_second", "final_minute", "final_second")
INTERVALS = 572
LAST_PART = 0.85
"""Where the frames begin, as a share of what lies before the first clipping."""
_TEST = (5, 6, 7, 9, 14, 22, 24, 26, 29, 33, 35, 39, 53, 55, 61)
_VAL = (1, 2, 10, 16, 17, 28, 32, 46, 47, 57, 59, 63, 65, 67, 70)
SPLITS: dict[str, Split] = {
    "official": {"train": [v for v in range(1, 81) if v not in _TEST + _VAL], "val": _VAL, "test": _TEST}
}


def _workbooks(root: Path) -> list[Path]:
    return sorted(
        path for folder in (root, root / "data") for path in folder.glob("*.xlsx") if path.name[0] not in "~."
    )


def _matches(root: Path) -> bool:
    return (root / PHASE_FOLDER).is_dir() and bool(_workbooks(root))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    intervals = _intervals(root)
    videos = [f"video{number:02d}" for number in sorted(intervals["video"].unique())]
    pictures = {video: source for video in videos if (source := pictures_of(root, video)) is not None}
    name = options.split or "official"
    split = published_split(name, SPLITS, videos)
    notes = [f"{len(intervals)} of {INTERVALS} intervals are here"] if len(intervals) != INTERVALS else []
    notes += left_out("labelled videos whose pictures are missing", [v for v in videos if v not in pictures])
    notes += not_here(name, SPLITS, pictures)
    parts = []
    for video, source in pictures.items():
        if isinstance(source, Clip) and not is_native(source):
            raise TrocarError(
                f"{root}: {video} runs at {source.fps} frames per second, or at a rate that varies; its labels are for "
                f"{NATIVE_FPS}"
            )
        fps = options.fps if isinstance(source, Clip) else min(options.fps, 1.0)
        mine = intervals[intervals["video"] == int(video.removeprefix("video"))]
        labels = _scored(mine, _first_clipping(root, video, source), fps, video)
        part, said = place(labels, source, root, video)
        notes += said
        parts.append(part.assign(case=video, split=split[video]))
    spaces = [LabelSpace("cvs", "multilabel", tuple(CRITERIA))]
    return build_table(root, ADAPTER.name, parts, spaces, notes=notes)


def _intervals(root: Path) -> pd.DataFrame:
    books = _workbooks(root)
    if len(books) != 1:
        raise TrocarError(f"{root}: {len(books)} .xlsx files, expected the one with the surgeons' annotations")
    table = read_sheet(books[0], ("video", *TIMES, *CRITERIA.values()))
    times = {name: table.numbers(name, 0) for name in TIMES}
    scores = {name: table.whole(name, 0, 2) for name in CRITERIA.values()}
    found: pd.DataFrame = pd.DataFrame({"video": table.whole("video", 1, 80), **times, **scores})
    return found


def _first_clipping(root: Path, video: str, source: Clip | NumberedImages) -> int:
    """Native frame at which the clipping begins. Raises TrocarError without a phase file that has it."""
    path = root / PHASE_FOLDER / f"{video}{PHASE_SUFFIX}"
    if not path.is_file():
        raise TrocarError(f"{path} is missing; the labels of Cholec80-CVS end where the phase ClippingCutting begins")
    table = read_labels(path)
    check_times(root, video, source, table)
    clipping = table["Phase"].map(lambda name: canonical(str(name)) == canonical("ClippingCutting"))
    if not clipping.any():
        raise TrocarError(f"{path}: no ClippingCutting; is it Cholec80's phase file?")
    return int(table.loc[clipping, "Frame"].iloc[0])


def _scored(intervals: pd.DataFrame, end: int, fps: float, video: str) -> pd.DataFrame:
    """`frame` and the three criteria for frames of the last part of [0, `end`), `fps` a second."""
    rate = int(NATIVE_FPS)
    met = _criteria(intervals, end, video)
    start = math.floor(end * LAST_PART / rate) * rate
    frames = np.unique(np.round(np.arange(start, end, max(rate / fps, 1.0))).astype(np.int64))
    frames = frames[frames < end]
    found: pd.DataFrame = pd.DataFrame(
        {"frame": frames, **{f"cvs/{name}": met[frames, i] for i, name in enumerate(CRITERIA)}}
    )
    return found


def _criteria(intervals: pd.DataFrame, end: int, video: str) -> npt.NDArray[np.int64]:
    """0 or 1, [end, 3]. An interval includes its last frame; a later one overwrites an earlier one."""
    met = np.zeros((end, len(CRITERIA)), dtype=np.int64)
    for row in intervals.to_dict("records"):
        scores = [min(row[column], 1) for column in CRITERIA.values()]
        first = int((row["initial_minute"] * 60 + row["initial_second"]) * NATIVE_FPS)
        last = int((row["final_minute"] * 60 + row["final_second"]) * NATIVE_FPS)
        if any(scores) and first > end:
            raise TrocarError(f"{video}: an interval begins at frame {first}, the clipping already at {end}")
        if any(scores):
            met[first : last + 1] = scores
    return met


ADAPTER = DATASETS.register(
    Adapter(
        name="cholec80_cvs",
        expects=f"Cholec80's videos/ and {PHASE_FOLDER}/ with surgeons_annotations.xlsx beside them",
        matches=_matches,
        read=_read,
        splits=SPLITS,
        default_split="official",
    )
)
