"""MultiBypass140: 70 gastric bypasses of Bern and 70 of Strasbourg, phases and steps, 5 folds per centre.

labels/{bern,strasbourg}/labels_by70_splits/labels/ holds the official folds with their labels at 1 fps, as pickle
files; labels/{bern,strasbourg}/labels_by70/ the intervals they come from, as JSON in milliseconds. There `out_of_body`
and `severe_index` lie on top of a phase. `out_of_body` is a class of its own, not scored, where there is no phase.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from trocar.data.media.delivered_files import listed
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions, canonical
from trocar.downstream.datasets.readers.label_files import (
    first_number,
    numbered,
    read_frame_lists,
    refuse_dense,
    unlabelled_end,
)
from trocar.downstream.datasets.readers.videos import every_nth_second, find_clip, left_out, located_by_second
from trocar.downstream.labels import UNLABELLED, LabelledFrames, LabelSpace, build_table
from trocar.errors import ConfigError, TrocarError, nearest

PHASES = (
    "preparation",
    "gastric_pouch_creation",
    "omentum_division",
    "gastrojejunal_anastomosis",
    "anastomosis_test",
    "jejunal_separation",
    "closure_petersen_space",
    "jejunojejunal_anastomosis",
    "closure_mesenteric_defect",
    "cleaning_coagulation",
    "disassembling",
    "other_intervention",
    "out_of_body",
)
OUT_OF_BODY, SEVERE_INDEX = 12, 13
STEP_COUNT = 46
CENTRES = {"bern": "BernBypass70", "strasbourg": "StrasBypass70"}
FOLDS = 5
_SPLIT = re.compile(r"(bern|strasbourg|both)-fold([0-4])")


def _matches(root: Path) -> bool:
    return any((root / "labels" / centre).is_dir() for centre in CENTRES)


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    asked, fold = _asked(options.split)
    tables: dict[str, pd.DataFrame] = {}
    split: dict[str, str] = {}
    intervals = {path.name.split(".")[0]: _load(path) for centre in CENTRES for path in _json_files(root, centre)}
    for centre in CENTRES:
        of_fold, listed = _from_fold(root, centre, fold)
        tables |= of_fold
        split |= listed if options.split and centre in asked else {}
        if options.split and centre in asked and not listed:
            raise TrocarError(f"{_fold_folder(root, centre)}: no lists of fold {fold}; they come with the labels")
    notes = left_out(
        "labels of JSON files, since no fold lists them", [v for v in intervals if v not in tables] if tables else []
    )
    tables |= {video: _from_intervals(tree) for video, tree in intervals.items() if video not in tables}
    parts, missing = [], []
    for video, labels in sorted(tables.items()):
        part, said = _pictured(root, video, labels[every_nth_second(labels["second"], options.fps)])
        notes += said
        if part is None:
            missing.append(video)
        else:
            parts.append(part.assign(case=video, video=video, split=split.get(video, "")))
    notes += left_out("labelled videos whose pictures are missing", missing)
    notes += [f"{len(tables)} of 140 videos have labels"] if len(tables) != 140 else []
    spaces = [
        LabelSpace("phase", "multiclass", PHASES, unscored=(OUT_OF_BODY,)),
        LabelSpace("step", "multiclass", _step_names(intervals)),
    ]
    return build_table(root, ADAPTER.name, parts, spaces, notes=notes)


def _asked(split: str | None) -> tuple[tuple[str, ...], int]:
    if split is None:
        return (), 0
    match = _SPLIT.fullmatch(split)
    if match is None:
        hint = nearest(split, ADAPTER.splits)
        raise ConfigError(f"no published split {split!r}{hint}; this data set has: {', '.join(ADAPTER.splits)}")
    return tuple(CENTRES) if match[1] == "both" else (match[1],), int(match[2])


def _fold_folder(root: Path, centre: str) -> Path:
    return root / "labels" / centre / "labels_by70_splits" / "labels"


def _json_files(root: Path, centre: str) -> list[Path]:
    return listed(root / "labels" / centre / "labels_by70", "*.json")


def _from_fold(root: Path, centre: str, fold: int) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Labels per video and the split of each video; empty where the lists are not there."""
    tables: dict[str, pd.DataFrame] = {}
    split: dict[str, str] = {}
    for part, name in (("train", f"1fps_100_{fold}"), ("val", f"1fps_{fold}"), ("test", f"1fps_{fold}")):
        path = _fold_folder(root, centre) / part / f"{name}.pickle"
        if path.is_file():
            for video, records in read_frame_lists(path).items():
                if video in split:
                    raise TrocarError(f"{path}: {video} is in {split[video]} as well")
                tables[video], split[video] = _from_records(records, path), part
    return tables, split


def _from_records(records: list[dict[str, Any]], path: Path) -> pd.DataFrame:
    """`second` from the number at the end of `Frame_id`, which counts from 1; severe_index is no phase."""
    try:
        rows = [(_number(str(one["Frame_id"])) - 1, int(one["Phase_gt"]), int(one["Step_gt"])) for one in records]
    except (KeyError, TypeError, ValueError) as error:
        raise TrocarError(f"{path}: expected records with Frame_id, Phase_gt and Step_gt: {error}") from None
    table = pd.DataFrame(rows, columns=["second", "phase", "step"])
    table["phase"] = table["phase"].where(table["phase"] != SEVERE_INDEX, UNLABELLED)
    found: pd.DataFrame = table
    return found


def _number(text: str) -> int:
    digits = re.findall(r"\d+", text)
    if not digits or int(digits[-1]) < 1:
        raise ValueError(f"no number from 1 in {text!r}")
    return int(digits[-1])


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        for item in (*tree["phases"], *tree["steps"]):
            item["start"], item["end"] = float(item["start"]), float(item["end"])
            item["label_id"], item["label_name"] = int(item["label_id"]), str(item["label_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrocarError(f"{path}: not a label file of MultiBypass140: {error!r}") from None
    for item in tree["phases"]:
        places = {canonical(name): index for index, name in enumerate(PHASES)}
        place = places.get(canonical(item["label_name"]), item["label_id"])
        if place != item["label_id"] or not 0 <= place <= SEVERE_INDEX:
            raise TrocarError(f"{path}: phase {item['label_name']!r} has the number {item['label_id']}")
    return dict(tree)


def _from_intervals(tree: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """One row for every second that has a label; an interval holds its start and not its end."""
    overlays = [item for item in tree["phases"] if item["label_id"] == OUT_OF_BODY]
    phases = [item for item in tree["phases"] if item["label_id"] < OUT_OF_BODY]
    # Later ones win, so the phases come after the overlay that fills only what they leave free.
    phase = {second: item["label_id"] for item in (*overlays, *phases) for second in _seconds(item)}
    step = {second: item["label_id"] for item in tree["steps"] for second in _seconds(item)}
    seconds = sorted({*phase, *step})
    columns = {"phase": phase, "step": step}
    found: pd.DataFrame = pd.DataFrame(
        {"second": seconds, **{name: [of.get(s, UNLABELLED) for s in seconds] for name, of in columns.items()}}
    )
    return found


def _seconds(item: dict[str, Any]) -> Iterator[int]:
    yield from range(-int(-item["start"] // 1000), -int(-item["end"] // 1000))


def _step_names(intervals: dict[str, dict[str, list[dict[str, Any]]]]) -> tuple[str, ...]:
    """Names of the 46 steps as the JSON files have them; `s<number>` for one that none of them names."""
    names: dict[int, str] = {}
    for video, tree in intervals.items():
        for item in tree["steps"]:
            known = names.setdefault(item["label_id"], item["label_name"])
            if canonical(known) != canonical(item["label_name"]):
                raise TrocarError(f"{video}: step {item['label_id']} is {item['label_name']!r}, elsewhere {known!r}")
    return tuple(names.get(index, f"s{index}") for index in range(STEP_COUNT))


def _pictured(root: Path, video: str, labels: pd.DataFrame) -> tuple[pd.DataFrame | None, list[str]]:
    """Rows with the video's 1 fps images, else with frames of the video; None where neither is there."""
    folders = _picture_folders(root, video)
    for folder in folders:
        images = numbered(listed(folder / "frames" / video, "*.jpg"))
        if images:
            return _of_images(root, video, labels, images)
    clip = find_clip([folder / "videos" for folder in folders], video)
    if clip is None:
        return None, []
    part, notes = located_by_second(labels, clip, root, video)
    return part, notes + unlabelled_end(float(labels["second"].max()), clip.end_s, video)


def _picture_folders(root: Path, video: str) -> list[Path]:
    centre = "bern" if video.startswith("B") else "strasbourg"
    places = [root, root / "datasets", root / "datasets" / "MultiBypass140"]
    return [*(place / CENTRES[centre] for place in places), root / "labels" / centre / "labels_by70_splits"]


def _of_images(root: Path, video: str, labels: pd.DataFrame, images: dict[int, Path]) -> tuple[pd.DataFrame, list[str]]:
    first = first_number(images)
    number = labels["second"] + first
    over = number > max(images)
    if number.max() > max(images) + 2:
        raise TrocarError(f"{root}: the images of {video} end with {max(images)}, its labels with {number.max()}")
    refuse_dense(max(images) - first, int(labels["second"].max()), f"{root}: images of {video}")
    labels, number = labels[~over], number[~over]
    absent = [n for n in number if n not in images]
    if absent:
        raise TrocarError(
            f"{root}: {len(absent)} labelled images of {video} are missing, the first is number {absent[0]}"
        )
    paths = [str(images[n].relative_to(root)) for n in number]
    notes = [f"{video}: {int(over.sum())} labels after the last of {len(images)} images left out"] if over.any() else []
    notes += unlabelled_end(float(labels["second"].max()), float(max(images) - first + 1), video)
    return labels.assign(path=paths, frame=-1, time_s=labels["second"].astype(float)), notes


ADAPTER = DATASETS.register(
    Adapter(
        name="multibypass140",
        expects="labels/{bern,strasbourg}/labels_by70/ with BernBypass70/ and StrasBypass70/ (frames/ or videos/)",
        matches=_matches,
        read=_read,
        # Which cases a fold has is in its files, which come with the labels.
        splits={f"{centre}-fold{fold}": {} for centre in (*CENTRES, "both") for fold in range(FOLDS)},
    )
)
