"""Predictions with masks become outcomes: confusion matrices of images, of our own files and of other people's.

What confusion matrices cannot tell: surfaces and consistency in time, from the masks beside a predictions file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trocar.downstream.datasets.readers.masks import read_values
from trocar.downstream.labels import IGNORED_PIXEL, Mask
from trocar.downstream.metrics.outcome import AnyMetric, Ints, SegmentationOutcome, confusions
from trocar.downstream.metrics.registry import surface_metrics
from trocar.downstream.metrics.segmentation_details import consecutive, nearest_pixels, surface_dice, tc_iou
from trocar.downstream.predictions.prediction_file import RunRows
from trocar.errors import TrocarError, nearest

BACKGROUND = "background"


def mask_outcome(run: RunRows) -> SegmentationOutcome:
    """The confusion matrices of one run.

    Columns: either `confusion` (K x K pixel counts, row by row, the ground truth first) or `gt_mask` and `pred_mask`:
    PNGs whose value is the class index (255 is not scored), relative to the folder of the file. Class names come from
    the metadata; without them they are numbers. So does the background class; without it a class called background is
    the one. Raises TrocarError for what is missing or cannot be read.
    """
    rows, names = run.rows, tuple(str(name) for name in run.about.classes.get(run.key.task, ()))
    if "confusion" in rows and rows["confusion"].notna().all():
        counts = _counts(run)
    elif {"gt_mask", "pred_mask"} <= set(rows.columns):
        counts = _from_masks(run, len(names))
    else:
        raise run.error(
            f"rows of masks need the column `confusion`, or `gt_mask` and `pred_mask`; found {', '.join(run.columns)}"
        )
    classes = names or tuple(str(i) for i in range(counts.shape[1]))
    if len(classes) != counts.shape[1]:
        raise run.error(f"{len(classes)} class names, but confusions of {counts.shape[1]} classes")
    case = np.unique(rows["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
    return SegmentationOutcome(counts, case, classes, background=_background(run, classes))


def _background(run: RunRows, classes: tuple[str, ...]) -> int | None:
    """Index of the background class: the one the file names, else one that is called so."""
    named = run.about.background.get(run.key.task)
    if named is None:
        lower = [name.lower() for name in classes]
        return lower.index(BACKGROUND) if BACKGROUND in lower else None
    if named not in classes:
        raise run.error(f"background {named!r} is none of its classes{nearest(named, classes)}")
    return classes.index(named)


def _counts(run: RunRows) -> Ints:
    try:
        flat = [np.asarray(values, dtype=np.float64).ravel() for values in run.rows["confusion"]]
    except (ValueError, TypeError) as error:
        raise run.error(f"column `confusion` needs lists of K x K counts ({error})") from None
    lengths = {len(values) for values in flat}
    classes = math.isqrt(max(lengths))
    if lengths != {classes**2}:
        raise run.error(f"column `confusion` needs K x K counts in every row, found {sorted(lengths)[:5]}")
    counts = np.stack(flat)
    wrong = ((counts < 0) | (counts != np.round(counts)) | ~np.isfinite(counts)).any(1)
    if wrong.any():
        raise run.error("column `confusion` needs K x K counts in every row, whole, from 0", wrong)
    return counts.reshape(-1, classes, classes).astype(np.int64)


def _from_masks(run: RunRows, classes: int) -> Ints:
    if not classes:
        raise run.error(
            "masks need the number of classes: give their names with --classes, or in "
            f"{run.path.with_suffix('.json').name}, "
            f'{{"classes": {{"{run.key.task}": ["background", ...]}}}}'
        )
    found, values = [], np.zeros(IGNORED_PIXEL + 1, dtype=bool)
    for gt, pred in zip(run.rows["gt_mask"], run.rows["pred_mask"], strict=True):
        truth = read_mask_file(run.path, gt)
        values[np.unique(truth)] = True
        found.append(confusions(truth[None], read_mask_file(run.path, pred)[None], classes)[0])
    if values[IGNORED_PIXEL] and not values[1:IGNORED_PIXEL].any():
        raise run.error(
            f"the masks in gt_mask hold 0 and {IGNORED_PIXEL} alone, and {IGNORED_PIXEL} means: not scored, so "
            "nothing would be; write the number of the class where it is white"
        )
    return np.stack(found)


def read_mask_file(path: Path, name: object) -> Mask:
    """A mask beside the file; a name that leads out of its folder is refused."""
    folder = path.parent.resolve()
    file = (folder / str(name)).resolve()
    if not file.is_relative_to(folder):
        raise TrocarError(f"{path}: mask {str(name)!r} lies outside the folder of the file")
    return read_values(file)


@dataclass(frozen=True)
class MaskExtras:
    """What is read from the masks themselves, image by image: surface Dice with a tolerance in pixels (None: not), and
    consistency in time.
    """

    nsd: float | None = None
    consistency: bool = False

    def measures(
        self, run: RunRows, outcome: SegmentationOutcome
    ) -> Mapping[str, tuple[AnyMetric, SegmentationOutcome]]:
        """The metrics asked for by name, each with the outcome it is computed from.

        Raises TrocarError where the masks were not kept, and for consistency where no video has two.
        """
        found: dict[str, tuple[AnyMetric, SegmentationOutcome]] = {}
        if self.nsd is not None:
            surfaced = _with_surfaces(run, outcome, self.nsd)
            known = surface_metrics(outcome.background)
            found |= {f"{name}@{self.nsd:g}px": (metric, surfaced) for name, metric in known.items()}
        if self.consistency:
            found["tc_iou"] = tc_iou, _consecutive(run, outcome)
        return found


def _with_surfaces(run: RunRows, outcome: SegmentationOutcome, tolerance: float) -> SegmentationOutcome:
    """With normalised surface Dice of every image; `tolerance` in pixels of the masks."""
    pairs = zip(_names(run, "gt_mask"), _names(run, "pred_mask"), strict=True)
    masks = ((read_mask_file(run.path, gt)[None], read_mask_file(run.path, pred)[None]) for gt, pred in pairs)
    surfaces = [surface_dice(gt, pred, len(outcome.classes), tolerance)[0] for gt, pred in masks]
    return replace(outcome, surface=np.array(surfaces))


def _consecutive(run: RunRows, outcome: SegmentationOutcome) -> SegmentationOutcome:
    """Consecutive predictions of each video in the order of time."""
    if not {"video", "time_s"} <= set(run.rows.columns):
        raise run.error("consistency in time needs the columns `video` and `time_s`")
    # Reduced one by one: the masks of all videos at their own size would not fit in memory.
    masks = np.stack([nearest_pixels(read_mask_file(run.path, name)) for name in _names(run, "pred_mask")])
    clip = np.asarray(run.rows.groupby(["case", "video"], sort=False).ngroup(), dtype=np.int64)
    return consecutive(masks, clip, outcome.case, outcome.classes, size=None)


def _names(run: RunRows, column: str) -> list[str]:
    if column not in run.rows or (run.rows[column].fillna("") == "").any():
        raise run.error(f"no masks in column `{column}`; evaluate with --out keeps them")
    return [str(name) for name in run.rows[column]]
