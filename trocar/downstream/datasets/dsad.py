"""DSAD's layout (Dresden Surgical Anatomy Dataset): one folder per organ and one, multilabel/, with seven organs.

The folder that is opened decides what the masks are. DSAD/liver/01/image00.png with mask00.png is binary segmentation
of that organ; DSAD/ or DSAD/multilabel/ with mask00_liver.png and so on is segmentation into seven organs, where a file
that is missing is an organ that is not in sight. A pixel that two organs claim is not scored. weak_labels.csv and the
folders of the single annotators are not read. A case is a surgery; images have no times, so `time_s` is their number.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.readers.masks import open_mask
from trocar.downstream.folds import Split, published_split
from trocar.downstream.labels import IGNORED_PIXEL, LabelledFrames, LabelSpace, Mask, build_table
from trocar.errors import TrocarError

MULTILABEL = "multilabel"
ORGANS = (
    "abdominal_wall",
    "colon",
    "inferior_mesenteric_artery",
    "intestinal_veins",
    "liver",
    "pancreas",
    "small_intestine",
    "spleen",
    "stomach",
    "ureter",
    "vesicular_glands",
)
COMBINED = ("abdominal_wall", "colon", "liver", "pancreas", "small_intestine", "spleen", "stomach")
"""Organs of multilabel/."""
BACKGROUND = "background"
THRESHOLD = 127
SURGERY, IMAGE = "[0-9][0-9]", "image*.png"
_VAL, _TEST = (3, 21, 26), (2, 7, 11, 13, 14, 18, 20, 32)
KOLBINGER23 = "kolbinger23"
SPLITS: dict[str, Split] = {
    KOLBINGER23: {"train": [i for i in range(1, 33) if i not in _VAL + _TEST], "val": _VAL, "test": _TEST}
}


def read_binary_mask(path: Path) -> Mask:
    """uint8 [H, W]: 1 where the organ is (published as 255), 0 elsewhere. Raises TrocarError for a mask that holds
    something, but nothing bright: its organ would be lost.
    """
    grey = np.array(open_mask(path).convert("L"))
    if 0 < grey.max(initial=0) <= THRESHOLD:
        raise TrocarError(f"{path}: its largest value is {grey.max()}; an organ is published as white, 255")
    return (grey > THRESHOLD).astype(np.uint8)


def read_organ_masks(image: Path) -> Mask:
    """uint8 [H, W]: index into background and COMBINED of the organ masks beside `image`, 255 where two overlap.

    Raises TrocarError for a mask of an organ that multilabel/ does not have, or of another size than the others.
    """
    combined: Mask | None = None
    for path in _organ_masks(image):
        organ = path.stem.partition("_")[2]
        if organ not in COMBINED:
            raise TrocarError(f"{path}: no organ of {MULTILABEL}/: {', '.join(COMBINED)}")
        here = read_binary_mask(path)
        if combined is None:
            combined = np.zeros_like(here)
        if here.shape != combined.shape:
            raise TrocarError(f"{path}: its size is not that of the other masks of {image.name}")
        organ_index = 1 + COMBINED.index(organ)
        combined = np.where(here > 0, np.where(combined > 0, IGNORED_PIXEL, organ_index), combined).astype(np.uint8)
    if combined is None:
        width, height = open_mask(image).size
        return np.zeros((height, width), dtype=np.uint8)
    return combined


def _organ_masks(image: Path) -> list[Path]:
    return sorted(image.parent.glob(f"{_mask_stem(image.stem)}_*.png"))


def _mask_stem(image: str) -> str:
    return image.replace("image", "mask")


def _matches(root: Path) -> bool:
    return _is_organ_folder(root) or any(_is_organ_folder(root / name) for name in (MULTILABEL, *ORGANS))


def _is_organ_folder(folder: Path) -> bool:
    return any(folder.glob(f"{SURGERY}/{IMAGE}")) and any(folder.glob(f"{SURGERY}/mask*.png"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    folder = root / MULTILABEL if (root / MULTILABEL).is_dir() else root
    if not _is_organ_folder(folder):
        organs = [name for name in ORGANS if _is_organ_folder(root / name)]
        raise TrocarError(f"{root}: no {MULTILABEL}/; for one organ open its folder: {', '.join(organs)}")
    surgeries = [path for path in sorted(folder.glob(SURGERY)) if path.is_dir()]
    name = options.split or KOLBINGER23
    split = published_split(name, SPLITS, [surgery.name for surgery in surgeries])
    several = any(folder.glob(f"{SURGERY}/mask*_*.png"))
    parts = [_read_surgery(root, surgery, several).assign(split=split[surgery.name]) for surgery in surgeries]
    expected = {number for numbers in SPLITS[name].values() for number in numbers}
    missing = sorted(expected - {int(surgery.name) for surgery in surgeries}, key=int)
    notes = [f"no images of the surgeries {', '.join(f'{number:02d}' for number in missing)}"] if missing else []
    return replace(build_table(root, "dsad", parts, [_space(folder, several)], notes=notes), untimed=True)


def _space(folder: Path, several: bool) -> LabelSpace:
    if several:
        classes = (BACKGROUND, *COMBINED)
        return LabelSpace(
            "segmentation", "mask", classes, background=0, read_mask=read_organ_masks, mask_files=_organ_masks
        )
    organ = folder.resolve().name
    if organ not in ORGANS:
        raise TrocarError(
            f"{folder}: the folder's name says which organ the masks are of; expected {', '.join(ORGANS)}"
        )
    return LabelSpace("segmentation", "mask", (BACKGROUND, organ), background=0, read_mask=read_binary_mask)


def _read_surgery(root: Path, surgery: Path, several: bool) -> pd.DataFrame:
    images = [path for path in sorted(surgery.glob(IMAGE)) if re.fullmatch(r"image\d+", path.stem)]
    where = surgery.relative_to(root)
    masks = [path.name if several else f"{_mask_stem(path.stem)}.png" for path in images]
    part: pd.DataFrame = pd.DataFrame(
        {
            "path": [str(where / path.name) for path in images],
            "mask": [str(where / mask) for mask in masks],
            "frame": -1,
            "video": surgery.name,
            "case": surgery.name,
            "time_s": [float(path.stem.removeprefix("image")) for path in images],
        }
    )
    return part


ADAPTER = DATASETS.register(
    Adapter(
        name="dsad",
        expects=f"{MULTILABEL}/ or one organ's folder with 01/image00.png and 01/mask00.png",
        matches=_matches,
        read=_read,
        splits=SPLITS,
        default_split=KOLBINGER23,
    )
)
