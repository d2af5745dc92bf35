"""metrics.json: all metrics of a predictions file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from trocar import __version__
from trocar.core.files import write_atomic
from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.metrics.phase import phase_spread
from trocar.downstream.metrics.registry import Value, compute, compute_multitask, evaluate_metrics, mask_metrics
from trocar.downstream.metrics.segmentation import per_class
from trocar.downstream.metrics.segmentation_outcome import SegmentationOutcome
from trocar.downstream.predictions.mask_outcomes import consistency, mask_outcomes, surface_metrics
from trocar.downstream.predictions.outcomes import outcomes
from trocar.downstream.predictions.prediction_file import MASKS, Key
from trocar.errors import TrocarError

FORMAT = 2
METRICS = "metrics.json"
CELL = len("0.1234 [0.123, 0.123]")


@dataclass(frozen=True)
class MetricsRow:
    """All metrics of one key: `metrics` with their intervals, `spread` the standard deviations by name. Of masks also
    the IoU of every class, None where it is undefined, and the name of the background class, if there is one.
    """

    key: Key
    frames: int
    cases: int
    metrics: dict[str, Value]
    spread: dict[str, float]
    per_class: dict[str, float | None] | None = None
    background: str | None = None


@dataclass(frozen=True)
class MetricsReport:
    """What `trocar metrics` prints and writes; `notes` say what was left out and why."""

    predictions: Path
    draws: int
    rows: list[MetricsRow]
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """What metrics.json holds; undefined values are null."""
        rows = [
            {
                **row.key._asdict(),
                "frames": row.frames,
                "cases": row.cases,
                "metrics": row.metrics,
                "spread": {name: None if math.isnan(x) else x for name, x in row.spread.items()},
                **({} if row.per_class is None else {"per_class": row.per_class, "background": row.background}),
            }
            for row in self.rows
        ]
        return {
            "format": FORMAT,
            "trocar": __version__,
            "predictions": self.predictions.name,
            "bootstrap": self.draws,
            "rows": rows,
        }

    def write(self, path: Path) -> None:
        """Write metrics.json, complete or not at all."""
        write_atomic(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    def tables(self, width: int) -> list[Table]:
        """Runs of one task side by side, as many to a table as `width` characters hold."""
        tables: list[Table] = []
        for task in dict.fromkeys(row.key.task for row in self.rows):
            rows = [row for row in self.rows if row.key.task == task]
            names = max(len(name) for row in rows for name in (*row.metrics, *map(_class_line, row.per_class or ())))
            abreast = max(1, (width - names - 4) // (CELL + 3))
            tables += [_table(rows[i : i + abreast]) for i in range(0, len(rows), abreast)]
        return tables


@dataclass(frozen=True)
class MaskExtras:
    """What is read from the masks themselves, image by image: surface Dice with a tolerance in pixels (None: not), and
    consistency in time.
    """

    nsd: float | None = None
    consistency: bool = False

    def measure(self, path: Path, task: str | None, draws: int, classes: Sequence[str]) -> dict[Key, dict[str, Value]]:
        """The metrics asked for, by key."""
        parts = [surface_metrics(path, task, self.nsd, draws, classes)] if self.nsd is not None else []
        parts += [consistency(path, task, draws, classes)] if self.consistency else []
        keys = {key for part in parts for key in part}
        return {key: {name: value for part in parts for name, value in part.get(key, {}).items()} for key in keys}


def report(
    path: Path,
    task: str | None = None,
    draws: int = 1000,
    extras: MaskExtras | None = None,
    classes: Sequence[str] = (),
) -> MetricsReport:
    """All metrics of the predictions in `path`, of one task or of all; `extras` adds some of masks, `classes` are names
    that the file does not say.

    Raises as `predictions.outcomes` and `mask_predictions.mask_outcomes`, and TrocarError where there is nothing.
    """
    notes: list[str] = []
    found = {} if task == MASKS else outcomes(path, task, classes, notes.append)
    rows = [_scored(key, outcome, found, draws) for key, outcome in found.items()]
    if task in (None, MASKS):
        more = extras.measure(path, task, draws, classes) if extras is not None else {}
        masks = mask_outcomes(path, task, classes)
        rows += [_scored_masks(key, outcome, draws, more.get(key, {})) for key, outcome in masks.items()]
    if not rows:
        raise TrocarError(f"{path}: no predictions{f' of task {task!r}' if task else ''} in it")
    return MetricsReport(path, draws, rows, notes)


def _scored_masks(key: Key, outcome: SegmentationOutcome, draws: int, more: dict[str, Value]) -> MetricsRow:
    metrics = evaluate_metrics(outcome, mask_metrics(outcome.background), draws) | more
    values = zip(outcome.classes, per_class(outcome), strict=True)
    classes = {name: None if math.isnan(value) else float(value) for name, value in values}
    background = None if outcome.background is None else outcome.classes[outcome.background]
    return MetricsRow(key, len(outcome.case), outcome.cases, metrics, {}, classes, background)


def _scored(key: Key, outcome: Outcome, found: dict[Key, Outcome], draws: int) -> MetricsRow:
    metrics = compute(outcome, key.task, draws)
    tools = found.get(key._replace(task="tools"))
    if key.task == "step" and tools is not None:
        metrics |= compute_multitask(outcome, tools, draws)
    spread = phase_spread(outcome) if key.task in ("phase", "step") else {}
    return MetricsRow(key, len(outcome.case), outcome.cases, metrics, spread)


def _table(rows: Sequence[MetricsRow]) -> Table:
    drawn = any(value["low"] is not None for row in rows for value in row.metrics.values())
    captions = ["[95 % interval over cases]"] * drawn
    if any(row.per_class is not None and row.background is None for row in rows):
        captions.append("no background class is declared, so there are no metrics without it")
    table = Table(title=rows[0].key.task, caption="; ".join(captions) or None)
    table.add_column("metric", no_wrap=True)
    told = {"replicate", *(name for row in rows for name, number in row.key.run._asdict().items() if number)}
    for row in rows:
        words = [word for word in (row.key.backbone, row.key.protocol) if word]
        words += [f"{name} {number}" for name, number in row.key.run._asdict().items() if name in told]
        size = f"{row.frames} frames, {row.cases} cases"
        table.add_column("\n".join([*words, size]), justify="right", overflow="fold")
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        table.add_row(name, *(_cell(row.metrics.get(name)) for row in rows))
    for name in dict.fromkeys(name for row in rows for name in row.per_class or ()):
        table.add_row(_class_line(name), *(_class_cell(row, name) for row in rows))
    return table


def _class_line(name: str) -> str:
    return f"iou of {name}"


def _class_cell(row: MetricsRow, name: str) -> str:
    if row.per_class is None or name not in row.per_class:
        return ""
    value = row.per_class[name]
    return "undefined" if value is None else f"{value:.4f}"


def _cell(value: Value | None) -> str:
    if value is None:
        return ""
    if value["value"] is None:
        return "undefined"
    low, high = value["low"], value["high"]
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{value['value']:.4f}{interval}"
