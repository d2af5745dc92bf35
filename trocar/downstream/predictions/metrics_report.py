"""metrics.json: all metrics of predictions, of every run and of the mean over the runs of a contender."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from rich.table import Table

from trocar import __version__
from trocar.core.files import write_atomic
from trocar.downstream.metrics.outcome import SegmentationOutcome
from trocar.downstream.predictions.prediction_file import Key
from trocar.downstream.predictions.prediction_scores import ContenderScores, Interval, PredictionScores, RunScores

FORMAT = 2
METRICS = "metrics.json"
CELL = len("0.1234 [0.123, 0.123]")


class Value(TypedDict):
    """A metric and its 95 % interval over cases; None is undefined, or no interval."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MetricsRow:
    """All metrics of one run with their intervals; `spread` the standard deviations by name. Of masks also the IoU of
    every class, None where it is undefined, and the name of the background class, if there is one.
    """

    key: Key
    frames: int
    cases: int
    metrics: Mapping[str, Value]
    spread: Mapping[str, float | None]
    per_class: Mapping[str, float | None] | None = None
    background: str | None = None


@dataclass(frozen=True)
class MetricsReport:
    """What `trocar metrics` prints and writes. Computing it computes every metric of `scores`."""

    scores: PredictionScores

    @property
    def notes(self) -> Sequence[str]:
        """What was left out and why."""
        return self.scores.notes

    @property
    def rows(self) -> list[MetricsRow]:
        """One per run."""
        return [_row(run) for run in self.scores.runs.values()]

    def to_json(self) -> dict[str, Any]:
        """What metrics.json holds; undefined values are null."""
        rows = [
            {
                **row.key._asdict(),
                "frames": row.frames,
                "cases": row.cases,
                "metrics": row.metrics,
                "spread": row.spread,
                **({} if row.per_class is None else {"per_class": row.per_class, "background": row.background}),
            }
            for row in self.rows
        ]
        return {
            "format": FORMAT,
            "trocar": __version__,
            "predictions": self.scores.predictions.path.name,
            "bootstrap": self.scores.draws,
            "rows": rows,
            "means": [_mean(contender) for contender in self.scores.contenders.values()],
        }

    def write(self, path: Path) -> None:
        """Write metrics.json, complete or not at all."""
        write_atomic(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    def tables(self, width: int) -> list[Table]:
        """Runs of one task side by side, as many to a table as `width` characters hold."""
        tables: list[Table] = []
        found = self.rows
        for task in dict.fromkeys(row.key.task for row in found):
            rows = [row for row in found if row.key.task == task]
            names = max(len(name) for row in rows for name in (*row.metrics, *map(_class_line, row.per_class or ())))
            abreast = max(1, (width - names - 4) // (CELL + 3))
            tables += [_table(rows[i : i + abreast]) for i in range(0, len(rows), abreast)]
        return tables


def _row(run: RunScores) -> MetricsRow:
    outcome = run.outcome
    metrics = {name: _value(run.value(name), run.interval(name)) for name in run.metrics}
    spread = {name: _defined(value) for name, value in run.spread.items()}
    row = MetricsRow(run.key, len(outcome.case), outcome.cases, metrics, spread)
    if not isinstance(outcome, SegmentationOutcome):
        return row
    classes = {name: _defined(float(value)) for name, value in zip(outcome.classes, run.per_class, strict=True)}
    background = None if outcome.background is None else outcome.classes[outcome.background]
    return replace(row, per_class=classes, background=background)


def _mean(contender: ContenderScores) -> dict[str, Any]:
    metrics = {
        name: {
            **_value(contender.mean(name), contender.interval(name)),
            "sd": _defined(contender.deviation(name)),
        }
        for name in contender.names
    }
    return {
        "task": contender.task,
        "backbone": contender.backbone,
        "protocol": contender.protocol,
        "runs": len(contender.runs),
        "metrics": metrics,
        "per_class": contender.per_class(),
    }


def _value(value: float, interval: Interval) -> Value:
    low, high = interval or (None, None)
    return {"value": _defined(value), "low": low, "high": high}


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


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
