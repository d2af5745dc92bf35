"""HeiChole (EndoVis 2019): 24 public cholecystectomies with phases and instruments for every native frame.

Seven of the videos run at 50 frames per second, the others at 25, so labels are taken by the container's own rate. The
nine test videos of the challenge are not public: every number on these is on somebody's own split. Frames outside of
the body are censored to white and labelled all the same; they stay.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from trocar.core.tables import read_table
from trocar.data.media.delivered_files import listed
from trocar.downstream.datasets.base import CHOLEC80_PHASES, DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.readers.label_files import refuse_seconds, unlabelled_end
from trocar.downstream.datasets.readers.videos import Clip, find_clip, left_out, located
from trocar.downstream.folds import Split, not_here, published_split
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table

TOOLS = ("Grasper", "Clipper", "CoagulationInstruments", "Scissors", "SuctionIrrigation", "SpecimenBag", "Stapler")
INSTRUMENT_COLUMNS = 21
"""Categories in an instrument file: the seven tools, twelve reserved ones and an undefined shaft."""
LABELLED_FRAMES = 1_836_369
SPLITS: dict[str, Split] = {
    "surgbenchkit": {
        "train": [12, 11, 23, 15, 21, 2, 14, 24, 17, 9, 7, 18, 5, 3],
        "val": [6, 19, 10, 8, 20],
        "test": [4, 1, 22, 16, 13],
    }
}
_NAME = re.compile(r"(hei-chole\d+)_annotation_(phase|instrument)\.csv", re.IGNORECASE)


def _label_files(root: Path) -> dict[str, dict[str, Path]]:
    """Video name in lower case -> `phase`, `instrument` -> file. Both spellings of the names are about."""
    found: dict[str, dict[str, Path]] = {}
    for path in listed(root / "Annotations", "*/*.csv"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.setdefault(match[1].lower(), {})[match[2].lower()] = path
    return dict(sorted(found.items(), key=lambda item: int(re.findall(r"\d+", item[0])[0])))


def _matches(root: Path) -> bool:
    return bool(_label_files(root))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    files = _label_files(root)
    folders = [root / "Videos" / "Full", root / "Videos" / "Full" / "HD"]
    clips = {video: clip for video in files if (clip := find_clip(folders, video)) is not None}
    split = published_split(options.split, SPLITS, files) if options.split else {}
    notes = left_out("labelled videos that are missing", [video for video in files if video not in clips])
    notes += not_here(options.split, SPLITS, clips) if options.split else []
    parts, rows = [], 0
    for video, clip in clips.items():
        labels = _labels(files[video])
        for path in files[video].values():
            refuse_seconds(labels["frame"], clip.end_s, clip.rate, path)
        rows += len(labels)
        part, said = located(_thinned(labels, clip, options.fps), clip, root, clip.path.stem)
        notes += said + unlabelled_end(float(clip.seconds([labels["frame"].max()])[0]), clip.end_s, video)
        parts.append(part.assign(case=clip.path.stem, split=split.get(video, "")))
    if rows != LABELLED_FRAMES:
        notes.append(f"{rows} labelled native frames; the public videos have {LABELLED_FRAMES}")
    notes += left_out("videos without instrument labels", [v for v in clips if "instrument" not in files[v]])
    notes += left_out("videos without phase labels", [v for v in clips if "phase" not in files[v]])
    every = clips and options.split is None and options.fps >= max(clip.fps for clip in clips.values())
    official = {("phase", ""): LABELLED_FRAMES, ("tools", ""): LABELLED_FRAMES} if every else None
    spaces = [LabelSpace("phase", "multiclass", CHOLEC80_PHASES), LabelSpace("tools", "multilabel", TOOLS)]
    return build_table(root, ADAPTER.name, parts, spaces, notes=notes, official=official)


def _thinned(labels: pd.DataFrame, clip: Clip, fps: float) -> pd.DataFrame:
    kept: pd.DataFrame = labels[labels["frame"].isin(clip.grid(int(labels["frame"].max()), fps))]
    return kept


def _labels(files: dict[str, Path]) -> pd.DataFrame:
    """`frame` and what its files label, joined by the frame."""
    tables = []
    if "phase" in files:
        tables.append(_numbers(files["phase"], ["phase"], len(CHOLEC80_PHASES) - 1, 1))
    if "instrument" in files:
        tables.append(_numbers(files["instrument"], [f"tools/{tool}" for tool in TOOLS], 1, INSTRUMENT_COLUMNS))
    joined: pd.DataFrame = tables[0]
    for table in tables[1:]:
        joined = joined.merge(table, on="frame", how="outer").sort_values("frame")
    return joined


def _numbers(path: Path, labels: list[str], highest: int, count: int) -> pd.DataFrame:
    """A file without a header: `frame`, and the first of its `count` labels, 0 to `highest`, as columns `labels`.

    Raises TrocarError for another number of columns, and for other values.
    """
    table = read_table(path, header=False)
    if len(table.names) != 1 + count:
        raise table.error(f"{len(table.names)} columns, expected the frame and {count} labels, no header")
    of_labels = dict(zip(labels, table.names[1:], strict=False))  # the others are reserved
    columns = {label: table.whole(name, 0, highest) for label, name in of_labels.items()}
    numbers: pd.DataFrame = pd.DataFrame({"frame": table.whole(table.names[0], 0), **columns})
    return numbers


ADAPTER = DATASETS.register(
    Adapter(
        name="heichole",
        expects="Videos/Full/Hei-Chole1.mp4 with Annotations/Phase/Hei-Chole1_Annotation_Phase.csv or .../Instrument/",
        matches=_matches,
        read=_read,
        splits=SPLITS,
    )
)
