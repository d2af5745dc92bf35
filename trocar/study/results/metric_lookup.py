"""Outcomes and metrics of any task by name: labels of frames, and masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Outcome
from trocar.downstream.metrics.registry import REGISTRY
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS
from trocar.downstream.metrics.segmentation_outcome import SegmentationOutcome
from trocar.downstream.predictions.mask_outcomes import mask_outcomes
from trocar.downstream.predictions.outcomes import outcomes
from trocar.downstream.predictions.prediction_file import Key
from trocar.errors import ConfigError, nearest

MASKS = "segmentation"
AnyOutcome = Outcome | SegmentationOutcome
CaseMetric = Callable[[Any, "Floats | None"], float]
"""metric(outcome, weights): `weights` is float64 [cases], how often each case counts (None: once)."""

_PER_FRAME = ("gt", "pred", "scores", "time_s", "soft", "fold", "confusions", "surface")


def metric_named(task: str, name: str) -> CaseMetric:
    """A metric of a task; NaN for outcomes that it means nothing for. Raises ConfigError with the nearest name."""
    known = SEGMENTATION_METRICS if task == MASKS else REGISTRY[task]
    if name not in known:
        raise ConfigError(f"no metric {name!r}{nearest(name, known)}; metrics of {task}: {', '.join(known)}")
    if task == MASKS:
        return SEGMENTATION_METRICS[name]
    named = REGISTRY[task][name]
    return lambda outcome, weights: named.metric(outcome, weights) if named.offered(outcome) else float("nan")


# A study's scores are asked for file by file, and one file may have gigabytes of scores.
@lru_cache(maxsize=1)
def outcomes_in(path: Path) -> dict[Key, AnyOutcome]:
    """Everything in a predictions file, by key. Raises TrocarError for a file that can't be read."""
    return {**outcomes(path), **mask_outcomes(path)}


def restricted(outcome: AnyOutcome, names: Sequence[str], wanted: Collection[str]) -> AnyOutcome:
    """The outcome of some of its cases; `names` has the name of every case in it, in order."""
    keep = np.array([name in wanted for name in names])[outcome.case]
    case = np.unique(outcome.case[keep], return_inverse=True)[1].astype(np.int64)
    cut = {name: values[keep] for name in _PER_FRAME if (values := getattr(outcome, name, None)) is not None}
    return replace(outcome, **cut, case=case)
