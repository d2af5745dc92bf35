"""Predictions of masks read back: rows of predictions.parquet, or of other code with the same columns.

What confusion matrices cannot tell: surfaces and consistency in time, from the masks beside a predictions file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.downstream.datasets.readers.masks import read_values
from trocar.downstream.labels import IGNORED_PIXEL, Mask
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.metrics.registry import Value, evaluate_metrics
from trocar.downstream.metrics.registry import surface_metrics as offered_on_surfaces
from trocar.downstream.metrics.segmentation_details import consecutive, nearest_pixels, surface_dice, tc_iou
from trocar.downstream.metrics.segmentation_outcome import SegmentationOutcome, confusions
from trocar.downstream.predictions.prediction_file import MASKS, About, Key, read_predictions, with_classes, with_keys
from trocar.errors import TrocarError, nearest

BACKGROUND = "background"


def mask_outcomes(path: Path, task: str | None = None, classes: Sequence[str] = ()) -> dict[Key, SegmentationOutcome]:
    """One outcome per backbone, protocol and run of the rows of segmentation; empty where there are none. `task` names
    the task of a file without such a column, `classes` its classes.

    Columns: `case`, and either `confusion` (K x K pixel counts, row by row, the ground truth first) or `gt_mask` and
    `pred_mask`: PNGs whose value is the class index (255 is not scored), relative to the folder of the file. Class
    names come from the metadata; without them they are numbers. So does the background class;
    without it a class called background is the one. Raises TrocarError for what is missing or
    cannot be read.
    """
    return {key: outcome_of(path, rows, about) for key, rows, about in mask_rows(path, task, classes)}


def mask_rows(
    path: Path, task: str | None = None, classes: Sequence[str] = ()
) -> Iterator[tuple[Key, pd.DataFrame, About]]:
    """The rows of every backbone, protocol and run of segmentation, and what the file says of them."""
    table, about = read_predictions(path)
    table = with_keys(table, path, task)
    about = replace(about, classes=with_classes(about.classes, classes, task, table["task"].unique(), path))
    for _, rows in table[table["task"] == MASKS].groupby(list(Key._fields), sort=False):
        yield Key.of(rows.iloc[0]), rows, about


def outcome_of(path: Path, rows: pd.DataFrame, about: About) -> SegmentationOutcome:
    """The outcome of the rows of one key. Raises TrocarError as `mask_outcomes`."""
    names = tuple(str(name) for name in about.classes.get(MASKS, ()))
    if "confusion" in rows and rows["confusion"].notna().all():
        counts = _counts(path, rows)
    elif {"gt_mask", "pred_mask"} <= set(rows.columns):
        counts = _from_masks(path, rows, len(names))
    else:
        raise TrocarError(
            f"{path}: rows of segmentation need the column `confusion`, or `gt_mask` and `pred_mask`; "
            f"found {', '.join(map(str, rows.columns))}"
        )
    classes = names or tuple(str(i) for i in range(counts.shape[1]))
    if len(classes) != counts.shape[1]:
        raise TrocarError(f"{path}: {len(classes)} class names, but confusions of {counts.shape[1]} classes")
    case = np.unique(rows["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
    return SegmentationOutcome(counts, case, classes, background=_background(path, classes, about))


def _background(path: Path, classes: tuple[str, ...], about: About) -> int | None:
    """Index of the background class: the one the file names, else one that is called so."""
    named = about.background.get(MASKS)
    if named is None:
        lower = [name.lower() for name in classes]
        return lower.index(BACKGROUND) if BACKGROUND in lower else None
    if named not in classes:
        raise TrocarError(f"{path}: background {named!r} is none of its classes{nearest(named, classes)}")
    return classes.index(named)


def _counts(path: Path, rows: pd.DataFrame) -> Ints:
    try:
        flat = [np.asarray(values, dtype=np.float64).ravel() for values in rows["confusion"]]
    except (ValueError, TypeError) as error:
        raise TrocarError(f"{path}: column `confusion` needs lists of K x K counts ({error})") from None
    lengths = {len(values) for values in flat}
    classes = math.isqrt(max(lengths))
    if lengths != {classes**2}:
        raise TrocarError(f"{path}: column `confusion` needs K x K counts in every row, found {sorted(lengths)[:5]}")
    counts = np.stack(flat)
    wrong = ((counts < 0) | (counts != np.round(counts)) | ~np.isfinite(counts)).any(1)
    if wrong.any():
        row = rows.index[int(wrong.argmax())]
        raise TrocarError(f"{path}: row {row}: column `confusion` needs K x K counts in every row, whole, from 0")
    return counts.reshape(-1, classes, classes).astype(np.int64)


def _from_masks(path: Path, rows: pd.DataFrame, classes: int) -> Ints:
    if not classes:
        raise TrocarError(
            f"{path}: masks need the number of classes: give their names with --classes, or in "
            f"{path.with_suffix('.json').name}, "
            f'{{"classes": {{"{MASKS}": ["background", ...]}}}}'
        )
    found, values = [], np.zeros(IGNORED_PIXEL + 1, dtype=bool)
    for gt, pred in zip(rows["gt_mask"], rows["pred_mask"], strict=True):
        truth = read_mask_file(path, gt)
        values[np.unique(truth)] = True
        found.append(confusions(truth[None], read_mask_file(path, pred)[None], classes)[0])
    if values[IGNORED_PIXEL] and not values[1:IGNORED_PIXEL].any():
        raise TrocarError(
            f"{path}: the masks in gt_mask hold 0 and {IGNORED_PIXEL} alone, and {IGNORED_PIXEL} means: not scored, so "
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


def surface_metrics(
    path: Path, task: str | None, tolerance: float, draws: int, classes: Sequence[str] = ()
) -> dict[Key, dict[str, Value]]:
    """Normalised surface Dice of every backbone, protocol and run; `tolerance` in pixels of the masks.

    Raises TrocarError where the masks were not kept.
    """
    found = {}
    for key, rows, about in mask_rows(path, task, classes):
        outcome = outcome_of(path, rows, about)
        surfaces = [
            surface_dice(
                read_mask_file(path, gt)[None], read_mask_file(path, pred)[None], len(outcome.classes), tolerance
            )[0]
            for gt, pred in zip(_names(path, rows, "gt_mask"), _names(path, rows, "pred_mask"), strict=True)
        ]
        surfaced = replace(outcome, surface=np.array(surfaces))
        values = evaluate_metrics(surfaced, offered_on_surfaces(outcome.background), draws)
        found[key] = {f"{name}@{tolerance:g}px": value for name, value in values.items()}
    return found


def consistency(path: Path, task: str | None, draws: int, classes: Sequence[str] = ()) -> dict[Key, dict[str, Value]]:
    """`tc_iou` of every backbone, protocol and run: consecutive predictions of each video in the order of time.

    Raises TrocarError where the masks were not kept or no video has two.
    """
    found = {}
    for key, rows, about in mask_rows(path, task, classes):
        if not {"video", "time_s"} <= set(rows.columns):
            raise TrocarError(f"{path}: consistency in time needs the columns `video` and `time_s`")
        found[key] = _consistent(path, rows.sort_values(["case", "video", "time_s"], kind="stable"), about, draws)
    return found


def _consistent(path: Path, rows: pd.DataFrame, about: About, draws: int) -> dict[str, Value]:
    # Reduced one by one: the masks of all videos at their own size would not fit in memory.
    masks = np.stack([nearest_pixels(read_mask_file(path, name)) for name in _names(path, rows, "pred_mask")])
    clip = np.asarray(rows.groupby(["case", "video"], sort=False).ngroup(), dtype=np.int64)
    case = np.unique(rows["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
    outcome = consecutive(masks, clip, case, outcome_of(path, rows, about).classes, size=None)
    return evaluate_metrics(outcome, {"tc_iou": tc_iou}, draws)


def _names(path: Path, rows: pd.DataFrame, column: str) -> list[str]:
    if column not in rows or (rows[column].fillna("") == "").any():
        raise TrocarError(f"{path}: no masks in column `{column}`; evaluate with --out keeps them")
    return [str(name) for name in rows[column]]
