"""Endoscapes2023's layout: train/, val/, test/ with images and annotation_ds_coco.json; semseg/ with masks.

An image is `{video}_{frame at 25 fps}.jpg`. `cvs` (critical view of safety) is labelled on key frames, every five
seconds: per criterion the mean of three annotators (0, 1/3, 2/3, 1), so the labels are soft; rounded they say what at
least two of three saw. The frames between key frames carry copies of the last labels, which are for training at
most; they are left out. `segmentation` is labelled in the fifty videos of Endoscapes-Seg50, whose split is part of the
official one. The images in train_seg/, val_seg/ and test_seg/ are links, which some archive programs unpack as small
text files, so they are never read: an image is looked up by its name in train/, val/ and test/. Labels are sparse, so
`fps` thins nothing.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from trocar.core.tables import read_lines
from trocar.data.media.delivered_files import listed
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.readers.masks import read_indices
from trocar.downstream.folds import Split, published_split
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table
from trocar.errors import TrocarError

FPS = 25
CRITERIA = ("C1", "C2", "C3")
"""Two structures, hepatocystic triangle dissected, cystic plate seen."""
CLASSES = ("background", "cystic_plate", "calot_triangle", "cystic_artery", "cystic_duct", "gallbladder", "tool")
SPLITS: dict[str, Split] = {"official": {"train": range(1, 121), "val": range(121, 162), "test": range(162, 202)}}
OFFICIAL = {
    ("cvs", "train"): 6960,
    ("cvs", "val"): 2331,
    ("cvs", "test"): 1799,
    ("segmentation", "train"): 343,
    ("segmentation", "val"): 76,
    ("segmentation", "test"): 74,
}
BUDGETS = {"endoscapes-12.5%": ("12_5", 15), "endoscapes-25%": ("25", 30)}
"""Name -> (folder with train_0, train_1, train_2; number of training videos in each)."""
CVS_FILE = "annotation_ds_coco.json"
NAME = re.compile(r"(\d+)_(\d+)\.(?:jpg|png)")


def _matches(root: Path) -> bool:
    return any((root / split / CVS_FILE).is_file() for split in SPLITS["official"])


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    name = options.split or "official"
    published_split(name, SPLITS, ())
    frames, notes = pd.DataFrame(columns=["path"]), []
    for split in SPLITS["official"]:
        if not (root / split / CVS_FILE).is_file():
            notes.append(f"no {split}/{CVS_FILE}, so no {split} frames of cvs")
            continue
        part, left_out = _key_frames(root, split)
        frames = pd.concat([frames, part], ignore_index=True) if len(frames) else part
        notes += left_out
    masks, unused = _masks(root)
    frames = frames.merge(masks, on="path", how="outer")
    found = frames["path"].str.extract(r"^(?P<folder>[^/]+)/(?P<video>\d+)_(?P<number>\d+)\.")
    frames = frames.assign(
        frame=-1, video=found["video"], case=found["video"], time_s=found["number"].astype(float) / FPS
    )
    frames["split"] = frames["case"].map(published_split(name, SPLITS, frames["case"].unique()))
    _check_splits(root, frames["split"], found)
    spaces = [
        LabelSpace("cvs", "multilabel", CRITERIA, soft=True),
        LabelSpace(
            "segmentation",
            "mask",
            CLASSES,
            background=0,
            white_is_suspect=True,
            read_mask=partial(read_indices, classes=len(CLASSES)),
        ),
    ]
    budgets, missing = _budgets(root, set(frames["case"][frames["split"] == "train"]))
    notes += [*unused, *missing]
    return build_table(root, "endoscapes", [frames], spaces, notes=notes, budgets=budgets, official=OFFICIAL)


def _key_frames(root: Path, split: str) -> tuple[pd.DataFrame, list[str]]:
    file = root / split / CVS_FILE
    images = _load(file)["images"]
    key = [image for image in images if image.get("is_ds_keyframe", True)]
    wrong = [image for image in key if not NAME.fullmatch(image["file_name"]) or len(image.get("ds", ())) != 3]
    if wrong:
        raise TrocarError(
            f"{file}: {wrong[0]['file_name']}: expected a name such as 8_14775.jpg and `ds` with 3 values"
        )
    part = pd.DataFrame([image["ds"] for image in key], columns=[f"cvs/{name}" for name in CRITERIA], dtype=float)
    part.insert(0, "path", [f"{split}/{image['file_name']}" for image in key])
    between = len({p.name for p in listed(root / split, "*.jpg")} - {image["file_name"] for image in key})
    return part, [f"{split}: {between} frames between key frames, not labelled themselves, left out"] if between else []


def _masks(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """Image and mask of every file in semseg/, and notes on masks without an image."""
    rows, lost = [], []
    for mask in listed(root / "semseg", "*.png"):
        image = f"{mask.stem}.jpg"
        folders = [split for split in SPLITS["official"] if (root / split / image).is_file()]
        if folders:
            rows.append({"path": f"{folders[0]}/{image}", "mask": f"semseg/{mask.name}"})
        else:
            lost.append(mask.name)
    notes = [f"{len(lost)} masks without an image in train/, val/ or test/ left out, first {lost[0]}"] if lost else []
    return pd.DataFrame(rows, columns=["path", "mask"]), notes


def _check_splits(root: Path, split: pd.Series, found: pd.DataFrame) -> None:
    """A video's folder, the lists beside it and the published split must say the same."""
    wrong = found[found["folder"] != split]
    if len(wrong):
        video, folder = wrong.iloc[0][["video", "folder"]]
        raise TrocarError(f"{root}: video {video} lies in {folder}/, which is not its published split")
    for name, of_split in SPLITS["official"].items():
        for file in (root / f"{name}_vids.txt", root / f"{name}_seg_vids.txt"):
            strangers = sorted(_video_list(file) - {int(video) for video in of_split})
            if strangers:
                raise TrocarError(f"{file}: lists video {strangers[0]}, which is not in the published {name} split")


def _video_list(file: Path) -> set[int]:
    """The published lists hold floats in scientific notation."""
    if not file.is_file():
        return set()
    try:
        return {int(float(line)) for line in read_lines(file) if line}
    except ValueError as error:
        raise TrocarError(f"{file}: expected one number per line: {error}") from None


def _budgets(root: Path, training: set[str]) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Videos named by the files of 12_5/train_k and 25/train_k, and notes on what differs from the published counts."""
    budgets: dict[str, list[list[str]]] = {}
    notes = []
    for name, (folder, expected) in BUDGETS.items():
        draws = [_videos_in(path) for path in sorted((root / folder).glob("train_[0-9]"))]
        if not any(draws):
            continue
        for k, draw in enumerate(draws):
            strangers = [video for video in draw if video not in training]
            if strangers:
                raise TrocarError(f"{root / folder}/train_{k}: video {strangers[0]} is not a training video")
            if len(draw) != expected:
                notes.append(f"{folder}/train_{k}: {len(draw)} videos, published are {expected}")
        budgets[name] = draws
    return budgets, notes


def _videos_in(folder: Path) -> list[str]:
    """By the names of images and in annotation files: the images themselves are links."""
    names = {path.name for path in folder.iterdir()}
    for file in folder.glob("annotation*.json"):
        names |= {image["file_name"] for image in _load(file)["images"]}
    found = [NAME.fullmatch(name) for name in names]
    return [str(video) for video in sorted({int(match[1]) for match in found if match})]


def _load(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrocarError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("images"), list):
        raise TrocarError(f"{file}: no list `images`; is it an Endoscapes annotation file?")
    return tree


ADAPTER = DATASETS.register(
    Adapter(
        name="endoscapes",
        expects=f"train/, val/, test/ with {CVS_FILE}, semseg/",
        matches=_matches,
        read=_read,
        splits=SPLITS,
        default_split="official",
    )
)
