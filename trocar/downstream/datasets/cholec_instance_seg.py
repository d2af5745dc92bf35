"""CholecInstanceSeg's layout: train/VID02_t50_sparse/img_dir/*.png and ann_dir/*.json, or any part of that tree.

An annotation (labelme JSON) has one polygon or more per instance of an instrument; here they are semantic masks: all
polygons of a class, later ones over earlier ones. (The authors' converter keeps only the last polygon of an instance
that has several, and cuts the decimals of its corners off.) A case is a video. Sequences are those of CholecT50 and
Cholec80 (frame numbers in seconds) and of CholecSeg8k (at 25 fps); they are sparse or short, so `fps` thins nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from trocar.data.media.delivered_files import listed
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.folds import Split, published_split
from trocar.downstream.labels import LabelledFrames, LabelSpace, Mask, build_table
from trocar.errors import TrocarError, nearest

CLASSES = ("background", "grasper", "hook", "irrigator", "clipper", "bipolar", "scissors", "snare")
FRAMES = 41_933
"""Annotated frames of all 85 sequences, by the data set's authors."""
IMAGES, ANNOTATIONS = "img_dir", "ann_dir"
LEVELS = ("", "VID*/", "*/VID*/")
SPLITS: dict[str, Split] = {
    "official": {
        "train": (
            *(1, 2, 4, 5, 6, 8, 10, 12, 13, 18, 25, 26, 27, 31, 32, 35, 36, 40, 42, 43, 47, 48, 49, 50, 51, 52, 56),
            *(57, 60, 62, 65, 66, 68, 70, 73, 74, 75, 78, 79, 80, 92, 96, 103, 110, 111),
        ),
        "val": (3, 11, 17, 19, 23, 28, 30, 34, 37, 39, 44, 46, 54, 59, 63, 67, 71, 76),
        "test": (7, 9, 14, 15, 16, 20, 21, 22, 24, 29, 33, 38, 41, 45, 53, 55, 58, 61, 64, 69, 72, 77),
    }
}


def read_mask(path: Path) -> Mask:
    """uint8 [H, W] class indices of an annotation file. Raises TrocarError for a shape that is no known instrument."""
    tree = _load(path)
    canvas = Image.new("L", (int(tree["imageWidth"]), int(tree["imageHeight"])), 0)
    draw = ImageDraw.Draw(canvas)
    for shape in tree["shapes"]:
        index = _index(shape, path)
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if len(points) > 1:
            draw.polygon(points, fill=index, outline=index)
    return np.array(canvas, dtype=np.uint8)


def _index(shape: dict[str, Any], path: Path) -> int:
    label = str(shape.get("label", "")).strip().lower()
    if label not in CLASSES[1:]:
        raise TrocarError(
            f"{path}: unknown instrument {label!r}{nearest(label, CLASSES)}; known: {', '.join(CLASSES[1:])}"
        )
    if shape.get("shape_type", "polygon") != "polygon":
        raise TrocarError(f"{path}: a shape is a {shape['shape_type']}, expected polygons")
    return CLASSES.index(label)


def _load(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrocarError(f"{path}: not valid JSON: {error}") from None
    lacking = {"shapes", "imageHeight", "imageWidth"} - set(tree if isinstance(tree, dict) else ())
    if lacking:
        raise TrocarError(f"{path}: no {', '.join(sorted(lacking))}; expected a labelme annotation")
    return dict(tree)


def _matches(root: Path) -> bool:
    return any(any(root.glob(f"{level}{ANNOTATIONS}/*.json")) for level in LEVELS)


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    folders = sorted(folder.parent for level in LEVELS for folder in listed(root, f"{level}{ANNOTATIONS}"))
    parts, notes = [], []
    for folder in folders:
        part, lonely = _read_sequence(root, folder)
        parts.append(part)
        if lonely:
            notes.append(f"{folder.relative_to(root) / IMAGES}: {lonely} images without an annotation left out")
    frames = pd.concat(parts, ignore_index=True)
    split = published_split(options.split or "official", SPLITS, frames["case"].unique())
    frames["split"] = frames["case"].map(split)
    _check_folders(root, frames)
    if len(frames) != FRAMES:
        notes.append(
            f"{len(frames):,} of {FRAMES:,} published frames are here, of {frames['video'].nunique()} of 85 sequences"
        )
    space = LabelSpace("segmentation", "mask", CLASSES, background=0, read_mask=read_mask)
    return build_table(root, "cholec_instance_seg", [frames], [space], notes=notes)


def _read_sequence(root: Path, folder: Path) -> tuple[pd.DataFrame, int]:
    """Table of one sequence and the number of its images without an annotation."""
    images = {path.stem: path for path in listed(folder / IMAGES, "*.*")}
    rows = []
    for annotation in listed(folder / ANNOTATIONS, "*.json"):
        found = re.search(r"(?:VID|video)(\d+)\D+(?:\d+\D+)*?(\d+)$", annotation.stem, re.IGNORECASE)
        if annotation.stem not in images or found is None:
            raise TrocarError(
                f"{annotation}: no image of that name in {IMAGES}/, or its name has no video and frame number"
            )
        at_25_fps = annotation.stem.startswith("seg8k")
        partition = annotation.stem.partition("_")[0]
        case = f"VID{int(found[1]):02d}"
        rows.append(
            {
                "path": str(images[annotation.stem].relative_to(root)),
                "mask": str(annotation.relative_to(root)),
                "frame": -1,
                "video": f"{case}_{partition}",
                "case": case,
                "time_s": int(found[2]) / (25 if at_25_fps else 1),
            }
        )
    return pd.DataFrame(rows), len(images) - len(rows)


def _check_folders(root: Path, frames: pd.DataFrame) -> None:
    first = frames["path"].str.partition("/")[0]
    wrong = frames[first.isin(list(SPLITS["official"])) & (first != frames["split"])]
    if len(wrong):
        row = wrong.iloc[0]
        raise TrocarError(f"{root}: {row['path']}: {row['case']} is in the published split {row['split']!r}")


ADAPTER = DATASETS.register(
    Adapter(
        name="cholec_instance_seg",
        expects=f"{ANNOTATIONS}/ with labelme JSON beside {IMAGES}/",
        matches=_matches,
        read=_read,
        splits=SPLITS,
        default_split="official",
    )
)
