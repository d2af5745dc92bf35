"""CholecT45's layout: data/VID01/000000.png with triplet/VID01.txt and instrument/VID01.txt, 1 fps, frames from 0.

A label file has one line per frame: the frame's number, then a 0 or 1 per class in the order of dict/triplet.txt or
dict/instrument.txt. Lines are joined to images and to each other by that number.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from trocar.core.tables import read_lines, read_table
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions, index_of
from trocar.downstream.datasets.readers.label_files import refuse_dense, refuse_shifted
from trocar.downstream.datasets.triplets import CHOLECT45_SPLITS as SPLITS
from trocar.downstream.datasets.triplets import ENDOVIT_BUDGETS, ENDOVIT_SPLIT, TOOLS, TRIPLETS, triplet_indices
from trocar.downstream.folds import not_here, published_budgets, published_split
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table
from trocar.errors import TrocarError

FRAMES = 90_489
"""Labelled frames of all 45 videos, by the data set's authors."""


def _matches(root: Path) -> bool:
    return (root / "data").is_dir() and any((root / "triplet").glob("VID*.txt"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    tools, triplets = LabelSpace("tools", "multilabel", TOOLS), LabelSpace("triplet", "multilabel", TRIPLETS)
    orders = {"triplet": _order(root, triplets), "instrument": _order(root, tools)}
    files = sorted((root / "triplet").glob("VID*.txt"))
    split = published_split(options.split, SPLITS, [f.stem for f in files]) if options.split else {}
    step = max(round(1 / options.fps), 1)
    parts, notes, labelled = [], [], 0
    for file in files:
        video = file.stem
        if not (root / "data" / video).is_dir():
            notes.append(f"{video}: labels without images left out")
            continue
        part = _read_video(root, video, orders)
        images = {int(path.stem) for path in (root / "data" / video).glob("*.png") if path.stem.isdigit()}
        refuse_shifted(images, set(part["number"]), f"{root}: data/{video}")
        refuse_dense(max(images, default=0), int(part["number"].max()), f"{root}: data/{video}")
        labelled += len(part)
        notes += _disagreements(part, video)
        parts.append(part[part["number"] % step == 0].assign(video=video, case=video, split=split.get(video, "")))
    if labelled != FRAMES:
        notes.append(f"{labelled:,} of {FRAMES:,} officially labelled frames are here, of {len(parts)} videos")
    notes += not_here(options.split, SPLITS, [str(part["video"].iloc[0]) for part in parts]) if options.split else []
    training = {int(name.removeprefix("VID")): name for name, where in split.items() if where == "train"}
    lists = ENDOVIT_BUDGETS if options.split == ENDOVIT_SPLIT else {}
    budgets, left_out = published_budgets(lists, training)
    official = {} if step > 1 or options.split else {(space.task, ""): FRAMES for space in (tools, triplets)}
    return build_table(
        root, "cholect45", parts, [tools, triplets], notes=[*notes, *left_out], budgets=budgets, official=official
    )


def _order(root: Path, space: LabelSpace) -> list[str]:
    """The table's column for every column of a label file, by the names in dict/; the published order without them."""
    name = "triplet" if space.task == "triplet" else "instrument"
    path = root / "dict" / f"{name}.txt"
    if not path.is_file():
        return list(space.columns)
    lines = [re.fullmatch(r"\s*(\d+)\s*[:,;\s]\s*(\S.*?)\s*", line) for line in read_lines(path)]
    names = {int(found[1]): found[2] for found in lines if found}
    if sorted(names) != list(range(len(space.classes))):
        raise TrocarError(f"{path}: expected `number:name` for 0 to {len(space.classes) - 1}")
    if space.task == "triplet":
        indices = triplet_indices(names, str(path))
    else:
        indices = {i: index_of(tool, space.classes, str(path)) for i, tool in names.items()}
    return [space.columns[indices[i]] for i in sorted(indices)]


def _read_video(root: Path, video: str, orders: dict[str, list[str]]) -> pd.DataFrame:
    """Table of one video, with the frame's `number`."""
    part = _read_file(root / "triplet" / f"{video}.txt", orders["triplet"])
    instruments = root / "instrument" / f"{video}.txt"
    if instruments.is_file():
        part = part.merge(_read_file(instruments, orders["instrument"]), on="number", how="outer")
    paths = [f"data/{video}/{number:06d}.png" for number in part["number"]]
    where = pd.DataFrame({"path": paths, "frame": -1, "time_s": part["number"].astype(float)})
    located: pd.DataFrame = pd.concat([where, part], axis=1)
    return located


def _read_file(path: Path, columns: list[str]) -> pd.DataFrame:
    table = read_table(path, header=False)
    names = [name for name in table.names if table.filled(name).any()]  # without that of a comma at the end of lines
    if len(names) != 1 + len(columns):
        raise table.error(f"{len(names)} columns, expected the frame number and {len(columns)} classes")
    table.once(names[0])
    labels = {column: table.flags(name) for name, column in zip(names[1:], columns, strict=True)}
    found: pd.DataFrame = pd.DataFrame({"number": table.whole(names[0], 0), **labels})
    return found


def _disagreements(part: pd.DataFrame, video: str) -> list[str]:
    """Frames whose instruments are not those of their triplets."""
    if f"tools/{TOOLS[0]}" not in part:
        return [f"{video}: no instrument/{video}.txt, so no tools"]
    differ = pd.Series(False, index=part.index)
    for tool in TOOLS:
        own = [f"triplet/{name}" for name in TRIPLETS if name.startswith(f"{tool.lower()},")]
        differ |= part[own].max(axis=1) != part[f"tools/{tool}"]
    return (
        [f"{video}: the instruments of {differ.sum()} frames are not those of their triplets"] if differ.any() else []
    )


ADAPTER = DATASETS.register(
    Adapter(
        name="cholect45",
        expects="data/VIDxx/ with triplet/VIDxx.txt",
        matches=_matches,
        read=_read,
        splits=SPLITS,
    )
)
