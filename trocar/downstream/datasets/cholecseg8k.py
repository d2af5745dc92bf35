"""CholecSeg8k's layout: video01/video01_00080/frame_80_endo.png with frame_80_endo_watershed_mask.png.

The watershed mask holds a grey value per class; the other two masks beside it are for display and for the
annotation tool. Clips are 80 consecutive frames at 25 fps, all labelled, and all are used: `fps` thins nothing. A case
is a video, the table's `video` is a clip. The data set has no official split: `silva22` is the one of Silva et al. 2022
(IEEE 9871583) and EndoViT. Splits by random frames are not offered: neighbouring frames would lie on both sides.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.readers.masks import look_up, read_grey
from trocar.downstream.folds import Split, published_budgets, published_split
from trocar.downstream.labels import IGNORED_PIXEL, LabelledFrames, LabelSpace, Mask, build_table

FPS, CLIP = 25, 80
FRAMES, VIDEOS = 8080, 17
IMAGE, MASK = "_endo.png", "_endo_watershed_mask.png"
GREYS = {
    "Black background": 50,
    "Abdominal wall": 11,
    "Liver": 21,
    "GI tract": 13,
    "Fat": 12,
    "Grasper": 31,
    "Connective tissue": 23,
    "Blood": 24,
    "Cystic duct": 25,
    "L-hook": 32,
    "Gallbladder": 22,
    "Hepatic vein": 33,
    "Liver ligament": 5,
}
"""Class -> value in the watershed mask. The published table writes colours (`#505050`), but in decimal digits."""
# Pixels nobody labelled (0), the white frame of one pixel (255), and two values that are in no table.
UNSCORED_GREYS = (0, 255, 35, 36)
SILVA22 = "silva22"
SPLITS: dict[str, Split] = {
    SILVA22: {"train": (1, 9, 18, 20, 24, 25, 26, 28, 35, 37, 43, 48, 55), "val": (17, 52), "test": (12, 27)}
}
ENDOVIT_BUDGETS = {
    "endovit-1-videos": ((9,), (28,), (43,)),
    "endovit-2-videos": ((24, 1), (25, 48), (55, 28)),
    "endovit-4-videos": ((18, 48, 25, 1), (28, 55, 24, 37), (37, 18, 24, 20)),
}

_TABLE = np.full(256, -1, dtype=np.int16)
_TABLE[list(GREYS.values())] = range(len(GREYS))
_TABLE[list(UNSCORED_GREYS)] = IGNORED_PIXEL


def read_mask(path: Path) -> Mask:
    """uint8 [H, W] class indices of a watershed mask; four published files have an alpha channel, which is dropped."""
    return look_up(read_grey(path), _TABLE, path)


def _matches(root: Path) -> bool:
    return any(root.glob(f"video*/video*_*/*{MASK}"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    clips = [clip for clip in sorted(root.glob("video*/video*_*")) if clip.is_dir()]
    name = options.split or SILVA22
    split = published_split(name, SPLITS, [clip.parent.name for clip in clips])
    parts = [_read_clip(root, clip).assign(split=split[clip.parent.name]) for clip in clips]
    cases = {_number(case): case for case, where in split.items() if where == "train"}
    budgets, left_out = published_budgets(ENDOVIT_BUDGETS, cases)
    space = LabelSpace("segmentation", "mask", tuple(GREYS), background=0, read_mask=read_mask)
    notes = [*_counts(clips, parts), *left_out]
    return build_table(root, "cholecseg8k", parts, [space], notes=notes, budgets=budgets)


def _read_clip(root: Path, clip: Path) -> pd.DataFrame:
    images = sorted(clip.glob(f"frame_*{IMAGE}"))
    numbers = [int(re.findall(r"\d+", path.name)[0]) for path in images]
    where = clip.relative_to(root)
    part: pd.DataFrame = pd.DataFrame(
        {
            "path": [str(where / path.name) for path in images],
            "mask": [str(where / path.name.replace(IMAGE, MASK)) for path in images],
            "frame": -1,
            "video": clip.name,
            "case": clip.parent.name,
            "time_s": np.array(numbers, dtype=float) / FPS,
        }
    )
    return part


def _counts(clips: list[Path], parts: list[pd.DataFrame]) -> list[str]:
    notes = [
        f"{clip.name}: {len(part)} frames, published clips have {CLIP}"
        for clip, part in zip(clips, parts, strict=True)
        if len(part) != CLIP
    ]
    found, videos = sum(map(len, parts)), len({clip.parent for clip in clips})
    if found != FRAMES:
        notes.append(f"{found:,} of {FRAMES:,} published frames are here, of {videos} of {VIDEOS} videos")
    return notes


def _number(case: str) -> int:
    return int(case.removeprefix("video"))


ADAPTER = DATASETS.register(
    Adapter(
        name="cholecseg8k",
        expects=f"video01/video01_00080/ with frame_80{IMAGE} and frame_80{MASK}",
        matches=_matches,
        read=_read,
        splits=SPLITS,
        default_split=SILVA22,
    )
)
