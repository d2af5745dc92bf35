"""What confusion matrices cannot tell: surfaces and consistency in time, from the masks beside a predictions file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.downstream.metrics.compute import Value, evaluate_metrics
from trocar.downstream.metrics.segmentation_offered import surface_metrics as offered_on_surfaces
from trocar.downstream.metrics.segmentation_surface import surface_dice
from trocar.downstream.metrics.segmentation_temporal import consecutive, nearest, tc_iou
from trocar.downstream.predictions.mask_outcomes import mask_rows, outcome_of, read_mask_file
from trocar.downstream.predictions.prediction_file import About, Key
from trocar.errors import TrocarError


def surface_metrics(
    path: Path, task: str | None, tolerance: float, draws: int, classes: Sequence[str] = ()
) -> dict[Key, dict[str, Value]]:
    """Normalised surface Dice of every backbone, protocol and seed; `tolerance` in pixels of the masks.

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
    """`tc_iou` of every backbone, protocol and seed: consecutive predictions of each video in the order of time.

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
    masks = np.stack([nearest(read_mask_file(path, name)) for name in _names(path, rows, "pred_mask")])
    clip = np.asarray(rows.groupby(["case", "video"], sort=False).ngroup(), dtype=np.int64)
    case = np.unique(rows["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
    outcome = consecutive(masks, clip, case, outcome_of(path, rows, about).classes, size=None)
    return evaluate_metrics(outcome, {"tc_iou": tc_iou}, draws)


def _names(path: Path, rows: pd.DataFrame, column: str) -> list[str]:
    if column not in rows or (rows[column].fillna("") == "").any():
        raise TrocarError(f"{path}: no masks in column `{column}`; evaluate with --out keeps them")
    return [str(name) for name in rows[column]]
