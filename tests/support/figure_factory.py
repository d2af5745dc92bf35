"""Predictions of made-up networks, in the columns of predictions.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

PHASES = ("Preparation", "Dissection", "Closure")
TOOLS = ("Grasper", "Hook", "Never")
TASKS: dict[str, dict[str, Any]] = {"phase": {"classes": list(PHASES)}, "tools": {"classes": list(TOOLS)}}


def _rows(task: str, n: int, backbone: str, kind: str, run: tuple[int, int, int], case: str) -> pd.DataFrame:
    about = {"task": task, "backbone": backbone, "kind": kind, "protocol": "linear", "fold": "test"}
    about |= dict(zip(("replicate", "draw", "start"), run, strict=True))
    return pd.DataFrame({**about, "case": case, "video": case, "path": "x", "frame": -1, "time_s": np.arange(n) * 1.0})


def phase_rows(
    gt: Sequence[int],
    pred: Sequence[int],
    *,
    backbone: str = "net",
    kind: str = "backbone",
    run: tuple[int, int, int] = (0, 0, 0),
    case: str = "case1",
) -> pd.DataFrame:
    """One case at one frame a second; the predicted class has probability 0.8."""
    table = _rows("phase", len(gt), backbone, kind, run, case)
    scores = np.full((len(gt), len(PHASES)), 0.1)
    scores[np.arange(len(gt)), pred] = 0.8
    labels = {"gt": pd.array(gt, dtype="Int64"), "pred": pd.array(pred, dtype="Int64")}
    return table.assign(**labels, gt_labels=None, pred_labels=None, scores=list(scores.astype(np.float32)))


def tool_rows(gt: Sequence[Sequence[int]], scores: Sequence[Sequence[float]]) -> pd.DataFrame:
    """One case of a task with several labels a frame."""
    table = _rows("tools", len(gt), "net", "backbone", (0, 0, 0), "case1")
    none = pd.array([None] * len(gt), dtype="Int64")
    values = np.asarray(scores, dtype=np.float32)
    lists = {"gt_labels": [list(row) for row in gt], "pred_labels": (values >= 0.5).astype(int).tolist()}
    return table.assign(gt=none, pred=none, **lists, scores=list(values))
