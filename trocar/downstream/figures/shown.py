"""Which predictions a figure is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.predictions.prediction_file import RunIndex

_KINDS = ("backbone", "random", "baseline", "majority")


@dataclass(frozen=True)
class ShownRun:
    """One run of one arm on one task: its rows in the order of time, and what is said about it.

    `gt` and `pred` are class indices [n], or 0 and 1 per class [n, K]; `scores` is [n, K], NaN where only labels are
    known.
    """

    task: str
    backbone: str
    protocol: str
    run: str
    classes: tuple[str, ...]
    rows: pd.DataFrame
    gt: Ints
    pred: Ints
    scores: Floats

    @property
    def single(self) -> bool:
        """One label a frame."""
        return self.gt.ndim == 1

    @property
    def has_probabilities(self) -> bool:
        """Whether the scores can be probabilities: all in 0..1."""
        return bool(((self.scores >= 0) & (self.scores <= 1 + 1e-6)).all())

    @property
    def title(self) -> str:
        """What is shown."""
        return f"{self.task} · {self.backbone} · {self.protocol}{self.run}"


def shown(predictions: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[ShownRun]:
    """The first run of every backbone and protocol on every task with labels per frame.

    Of the arms only the backbones that were asked for; where there are none the best informed baselines. Masks have
    no rows that could be drawn here.
    """
    kept = _of_first_kind(predictions)
    for key, rows in kept.groupby(["task", "backbone", "protocol"], sort=False):
        task, backbone, protocol = (str(part) for part in key)
        runs = [part for _, part in rows.groupby(list(RunIndex._fields), sort=False)]
        run = f" · run 1 of {len(runs)}" if len(runs) > 1 else ""
        first = _in_time_order(runs[0])
        found = _labels(first)
        if found is not None:
            classes = tuple(str(name) for name in tasks[task]["classes"])
            yield ShownRun(task, backbone, protocol, run, classes, first, *found)


def _of_first_kind(predictions: pd.DataFrame) -> pd.DataFrame:
    here = set(predictions["kind"])
    kind = next((kind for kind in _KINDS if kind in here), None)
    kept: pd.DataFrame = predictions[predictions["kind"] == kind]
    return kept


def _in_time_order(rows: pd.DataFrame) -> pd.DataFrame:
    ordered: pd.DataFrame = rows.sort_values(["case", "video", "time_s"], kind="stable", ignore_index=True)
    return ordered


def _labels(rows: pd.DataFrame) -> tuple[Ints, Ints, Floats] | None:
    if not {"gt", "gt_labels"} <= set(rows.columns):  # a table of masks alone
        return None
    if rows["gt"].notna().all():
        gt, pred = rows["gt"].to_numpy(np.int64), rows["pred"].to_numpy(np.int64)
    elif rows["gt_labels"].notna().all():
        gt, pred = _stacked(rows["gt_labels"]).astype(np.int64), _stacked(rows["pred_labels"]).astype(np.int64)
    else:
        return None
    return gt, pred, _stacked(rows["scores"])


def _stacked(values: Sequence[Any] | pd.Series) -> Floats:
    return np.stack([np.asarray(value, dtype=np.float64) for value in values])
