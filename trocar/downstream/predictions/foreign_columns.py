"""Predictions of other people's code: columns that are called otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

OTHERWISE: Mapping[str, Sequence[str]] = {
    "case": ("case_id", "caseid", "operation", "patient", "video", "video_id", "vid", "vid_id"),
    "gt": ("label", "labels", "truth", "target", "ground_truth", "groundtruth", "true", "y_true", "phase", "step"),
    "pred": ("prediction", "predictions", "predicted", "preds", "y_pred", "output"),
    "score_": ("prob_", "probability_", "logit_", "p_"),
    "gt_": ("label_", "truth_", "true_", "target_"),
    "pred_": ("prediction_", "predicted_"),
}
"""Column, or the beginning of columns -> what they are called elsewhere."""
_PARTS = ("gt", "pred")


def lacking(column: str, found: Iterable[str]) -> str:
    """`'gt' (is it 'label'?)`: a column that is not there, and the one that may be meant. Of several columns `column`
    is the beginning, with a `_` at its end."""
    listed = [str(name) for name in found]
    meant = _meant(column, listed)
    name = f"{column}<class>" if column.endswith("_") else column
    return f"{name!r}" + (f" (is it {meant!r}? rename it)" if meant else "")


def _meant(column: str, found: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in found}
    if column.endswith("_"):
        return next((lower[n] for n in lower for start in OTHERWISE[column] if n.startswith(start)), None)
    named = [lower[other] for other in OTHERWISE.get(column, ()) if other in lower]
    inside = [name for name in found if column in _PARTS and column in name.lower().split("_")]
    return next(iter([*named, *inside]), None)
