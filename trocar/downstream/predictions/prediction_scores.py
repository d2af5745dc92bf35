"""Every metric of predictions with its interval, each computed once and when it is first asked for: metrics.json,
results.json and all tables read the same numbers.

metrics.json has all of them, of every run and of the mean over the runs of a contender.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from rich.table import Table

from trocar import __version__
from trocar.core.files import write_atomic
from trocar.core.messages import Say
from trocar.downstream.metrics.outcome import (
    AnyMetric,
    AnyOutcome,
    Floats,
    Outcome,
    SegmentationOutcome,
    mean_defined,
    percentile_interval,
    resampled,
)
from trocar.downstream.metrics.phase import phase_spread
from trocar.downstream.metrics.registry import metrics_of, multitask_metrics
from trocar.downstream.predictions.frame_outcomes import frame_outcome
from trocar.downstream.predictions.mask_outcomes import MaskExtras, mask_outcome
from trocar.downstream.predictions.prediction_file import Key, Predictions, RunRows
from trocar.downstream.tasks import get_task

Interval = tuple[float, float] | None


def outcome_of(run: RunRows, say: Say = lambda line: None) -> AnyOutcome:
    """What a metric sees of one run: its labels and scores of frames, or its confusion matrices of masks.

    Raises TrocarError as `frame_outcome` and `mask_outcome`.
    """
    return mask_outcome(run) if get_task(run.key.task).masks else frame_outcome(run, say)


def outcomes(predictions: Predictions, say: Say = lambda line: None) -> dict[Key, AnyOutcome]:
    """One outcome per task, backbone, protocol and run. Raises TrocarError as `Predictions.runs` and `outcome_of`."""
    return {run.key: outcome_of(run, say) for run in predictions.runs()}


@dataclass(frozen=True)
class RunScores:
    """The metrics of one run that mean something for it, by name, the one that tables lead with first: each with the
    outcome that it is computed from. `cases` are the names of the cases that the outcome numbers; `draws` how many of
    the bootstrap.
    """

    key: Key
    outcome: AnyOutcome
    cases: tuple[str, ...]
    metrics: Mapping[str, tuple[AnyMetric, AnyOutcome]]
    draws: int
    _values: dict[str, float] = field(default_factory=dict, repr=False, compare=False)
    _resampled: dict[str, Floats] = field(default_factory=dict, repr=False, compare=False)

    def value(self, name: str) -> float:
        """A metric; NaN where it is undefined or means nothing for the outcome."""
        if name not in self.metrics:
            return float("nan")
        if name not in self._values:
            metric, outcome = self.metrics[name]
            self._values[name] = float(metric(outcome, None))
        return self._values[name]

    def resampled(self, name: str) -> Floats:
        """The metric on every draw of cases, float64 [draws]; empty for fewer than three cases."""
        if name not in self._resampled:
            metric, outcome = self.metrics[name]
            self._resampled[name] = resampled(metric, outcome, self.draws)
        return self._resampled[name]

    def interval(self, name: str) -> Interval:
        """95 % over cases; None without draws, for fewer than three cases, or where it is never defined."""
        return percentile_interval(self.resampled(name)) if name in self.metrics else None

    @cached_property
    def per_class(self) -> Floats:
        """The task's score of every class, [K]; NaN for one that does not occur."""
        return get_task(self.key.task).per_class[1](self.outcome)

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviations that papers print, by name."""
        outcome = self.outcome
        return phase_spread(outcome) if isinstance(outcome, Outcome) and self.key.task in ("phase", "step") else {}


@dataclass(frozen=True)
class ContenderScores:
    """All runs of a backbone on a task with a protocol."""

    task: str
    backbone: str
    protocol: str
    runs: tuple[RunScores, ...]

    @property
    def names(self) -> list[str]:
        """Metrics that mean something for any of the runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.metrics))

    def values(self, name: str) -> list[float]:
        """The metric of every run."""
        return [run.value(name) for run in self.runs]

    def mean(self, name: str) -> float:
        """Mean over runs."""
        return float(np.mean(self.values(name)))

    def deviation(self, name: str) -> float | None:
        """Standard deviation over runs (n - 1 in the denominator); None for a single one."""
        return float(np.std(self.values(name), ddof=1)) if len(self.runs) > 1 else None

    def interval(self, name: str) -> Interval:
        """95 % interval over cases of the mean over runs; None where runs have other cases or lack the metric."""
        if any(run.cases != self.runs[0].cases or name not in run.metrics for run in self.runs):
            return None
        return percentile_interval(np.mean([run.resampled(name) for run in self.runs], axis=0))

    def per_class(self) -> dict[str, float | None]:
        """The task's score of every class, the mean over the runs in which the class occurs; None where in none."""
        means = mean_defined(np.stack([run.per_class for run in self.runs], axis=1))
        names = self.runs[0].outcome.classes or [str(place) for place in range(len(means))]
        return {name: None if np.isnan(mean) else float(mean) for name, mean in zip(names, means, strict=True)}


@dataclass(frozen=True)
class PredictionScores:
    """Scores of predictions; `notes` say which metrics were left out and why."""

    predictions: Predictions
    runs: Mapping[Key, RunScores]
    draws: int
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, predictions: Predictions, draws: int = 1000, extras: MaskExtras | None = None) -> PredictionScores:
        """The scores of every run, with `draws` of the bootstrap (0: no intervals); `extras` adds some of masks.

        Raises TrocarError as `outcomes`.
        """
        notes: list[str] = []
        found: dict[Key, tuple[AnyOutcome, tuple[str, ...], dict[str, tuple[AnyMetric, AnyOutcome]]]] = {}
        for run in predictions.runs():
            outcome = outcome_of(run, notes.append)
            metrics = {name: (metric, outcome) for name, metric in metrics_of(run.key.task, outcome).items()}
            if extras is not None and isinstance(outcome, SegmentationOutcome):
                metrics |= extras.measures(run, outcome)
            found[run.key] = outcome, tuple(sorted(set(run.rows["case"].astype(str)))), metrics
        for key, (outcome, _, metrics) in found.items():
            tools = found.get(key._replace(task="tools"), (None,))[0]
            if key.task == "step" and isinstance(outcome, Outcome) and isinstance(tools, Outcome):
                metrics |= {name: (metric, outcome) for name, metric in multitask_metrics(outcome, tools).items()}
        runs = {key: RunScores(key, outcome, cases, metrics, draws) for key, (outcome, cases, metrics) in found.items()}
        return cls(predictions, runs, draws, notes)

    @cached_property
    def contenders(self) -> dict[tuple[str, str, str], ContenderScores]:
        """By task, backbone and protocol, in the order of the predictions."""
        parts: dict[tuple[str, str, str], list[RunScores]] = {}
        for key, run in self.runs.items():
            parts.setdefault(key[:3], []).append(run)
        return {names: ContenderScores(*names, tuple(runs)) for names, runs in parts.items()}


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
