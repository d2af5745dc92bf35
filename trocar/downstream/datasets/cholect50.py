"""CholecT50's layout: videos/VID01/000000.png and labels/VID01.json in the official format, 1 fps, frames from 0.

The numbers in a label file are those of its own `categories`, so phases, instruments and triplets are mapped by
name. Frames outside the body are black; they are labelled and stay.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trocar.data.media.delivered_files import listed
from trocar.downstream.datasets.base import CHOLEC80_PHASES, DATASETS, Adapter, DatasetOptions, index_of
from trocar.downstream.datasets.readers.label_files import refuse_dense, refuse_shifted
from trocar.downstream.datasets.triplets import CHOLECT50_SPLITS as SPLITS
from trocar.downstream.datasets.triplets import TOOLS, TRIPLETS, triplet_indices
from trocar.downstream.folds import not_here, published_split
from trocar.downstream.labels import UNLABELLED, LabelledFrames, LabelSpace, build_table
from trocar.errors import TrocarError

TRIPLET, INSTRUMENT, PHASE, ROW_LENGTH = 0, 1, 14, 15
FRAMES = 100_863
"""Labelled frames of all fifty videos, by the data set's authors."""


def _matches(root: Path) -> bool:
    return (root / "videos").is_dir() and any((root / "labels").glob("*.json"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    phases = options.phases or CHOLEC80_PHASES
    spaces = [
        LabelSpace("phase", "multiclass", phases),
        LabelSpace("tools", "multilabel", TOOLS),
        LabelSpace("triplet", "multilabel", TRIPLETS),
    ]
    files = listed(root / "labels", "*.json")
    split = published_split(options.split, SPLITS, [f.stem for f in files]) if options.split else {}
    parts, notes, unlabelled, labelled, thinned = [], [], {}, 0, False
    for file in files:
        images = _images(root / "videos" / file.stem)
        if not images:
            notes.append(f"{file.stem}: labels without images left out")
            continue
        part, label_fps = _read_video(file, images, spaces)
        labelled += len(part)
        unlabelled[file.stem] = len(images.keys() - set(part["number"]))
        step = max(round(label_fps / options.fps), 1)
        thinned |= step > 1
        parts.append(
            part[part["number"] % step == 0].assign(video=file.stem, case=file.stem, split=split.get(file.stem, ""))
        )
    notes += _counts(unlabelled, labelled)
    notes += not_here(options.split, SPLITS, unlabelled) if options.split else []
    official = {} if thinned or options.split else {(space.task, ""): FRAMES for space in spaces}
    return build_table(root, "cholect50", parts, spaces, notes=notes, official=official)


def _images(folder: Path) -> dict[int, str]:
    """Frame number -> name of the image; copies such as `000016 (1).png` are not frames."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208 (names: a path each is slow for 100,000)
    stems = {name: name.partition(".")[0] for name in names}
    return {int(stem): name for name, stem in stems.items() if stem.isdigit()}


def _counts(unlabelled: Mapping[str, int], labelled: int) -> list[str]:
    notes = []
    more = {video: count for video, count in unlabelled.items() if count}
    if more:
        where = ", ".join(more) if len(more) <= 5 else f"{len(more)} videos"
        notes.append(f"{sum(more.values())} images without a label left out, in {where}")
    if labelled != FRAMES:
        notes.append(f"{labelled:,} of {FRAMES:,} officially labelled frames are here, of {len(unlabelled)} videos")
    return notes


def _read_video(file: Path, images: dict[int, str], spaces: list[LabelSpace]) -> tuple[pd.DataFrame, float]:
    """Table of one label file, with the frame's `number`, and the labels' frame rate."""
    tree = _load(file)
    ids = _ids(tree["categories"], spaces[0].classes, file)
    numbers = sorted((int(key), value) for key, value in tree["annotations"].items())
    labelled, folder = {number for number, _ in numbers}, f"{file}: videos/{file.stem}"
    refuse_shifted(images, labelled, folder)
    refuse_dense(max(images), max(labelled), folder)
    missing = [number for number, _ in numbers if number not in images]
    if missing:
        raise TrocarError(
            f"{file}: {len(missing)} labelled frames have no image, the first is "
            f"videos/{file.stem}/{missing[0]:06d}.png"
        )
    columns = ["phase", *spaces[1].columns, *spaces[2].columns]
    labels = np.zeros((len(numbers), len(columns)), dtype=np.int64)
    for row, (number, entries) in zip(labels, numbers, strict=True):
        phase, tools, triplets = _frame(entries, ids, f"{file}: frame {number}")
        row[0] = phase
        row[[1 + i for i in tools]] = 1
        row[[1 + len(TOOLS) + i for i in triplets]] = 1
    fps = float(tree.get("fps", 1))
    where = pd.DataFrame({"number": [number for number, _ in numbers], "frame": -1})
    where["path"] = [f"videos/{file.stem}/{images[number]}" for number in where["number"]]
    where["time_s"] = where["number"] / fps
    return pd.concat([where, pd.DataFrame(labels, columns=columns)], axis=1), fps


def _ids(categories: Mapping[str, Mapping[str, str]], phases: tuple[str, ...], file: Path) -> dict[int, dict[int, int]]:
    """Per column of an entry: the file's number -> our index."""
    lacking = {"instrument", "phase", "triplet"} - categories.keys()
    if lacking:
        raise TrocarError(f"{file}: its categories lack {', '.join(sorted(lacking))}")
    triplets = {int(i): name for i, name in categories["triplet"].items()}
    return {
        PHASE: {UNLABELLED: UNLABELLED}
        | {int(i): index_of(name, phases, str(file)) for i, name in categories["phase"].items()},
        INSTRUMENT: {int(i): index_of(name, TOOLS, str(file)) for i, name in categories["instrument"].items()},
        TRIPLET: triplet_indices(triplets, str(file)),
    }


def _frame(
    entries: list[list[float]], ids: Mapping[int, Mapping[int, int]], where: str
) -> tuple[int, set[int], set[int]]:
    """Phase, instruments and triplets of one frame; every entry (one per triplet) repeats the phase, -1 is none."""
    if not entries or any(len(entry) != ROW_LENGTH for entry in entries):
        raise TrocarError(f"{where}: expected entries of {ROW_LENGTH} numbers")
    given = {column: {int(entry[column]) for entry in entries} for column in ids}
    if len(given[PHASE]) != 1:
        raise TrocarError(f"{where}: several phases {sorted(given[PHASE])}")
    shown = {PHASE: given[PHASE], **{column: {i for i in given[column] if i >= 0} for column in (INSTRUMENT, TRIPLET)}}
    if any(not shown[column] <= ids[column].keys() for column in ids):
        raise TrocarError(
            f"{where}: phase {sorted(shown[PHASE])}, instruments {sorted(shown[INSTRUMENT])} or triplets "
            f"{sorted(shown[TRIPLET])} are not in the file's categories"
        )
    phase, tools, triplets = ({ids[column][i] for i in shown[column]} for column in (PHASE, INSTRUMENT, TRIPLET))
    return phase.pop(), tools, triplets


def _load(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrocarError(f"{file}: not valid JSON: {error}") from None
    missing = {"categories", "annotations"} - set(tree if isinstance(tree, dict) else ())
    if missing:
        raise TrocarError(f"{file}: no {' or '.join(sorted(missing))}; is it a CholecT50 label file?")
    return dict(tree)


ADAPTER = DATASETS.register(
    Adapter(
        name="cholect50",
        expects="videos/VIDxx/ with labels/VIDxx.json",
        matches=_matches,
        read=_read,
        splits=SPLITS,
    )
)
