"""The outcome of an evaluation: one comparison table, and the predictions every number in it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from trocar import __version__
from trocar.core.files import write_atomic
from trocar.downstream.metrics.registry import NO_BACKGROUND, class_lines
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.predictions.prediction_scores import METRICS, ContenderScores, MetricsReport, PredictionScores
from trocar.privacy.aliases import Aliases

FORMAT = 2
PREDICTIONS = "predictions.parquet"
ABREAST = 5
"""Columns of a table of classes in the terminal."""
FEW, FIRST = 6, 3
"""So many names are listed; of more the first three."""


@dataclass(frozen=True)
class RowOrigin:
    """What a row of the table says besides its numbers: one arm on one task with one protocol.

    `runs` are those behind it, `members` what they are called. `detail` is what the protocol chose, [runs][folds];
    `leak` says whether the backbone has seen the test cases (`trocar.leakage.judge`).
    """

    task: str
    protocol: str
    arm: str
    kind: str
    members: list[str]
    runs: list[RunIndex]
    detail: list[list[Mapping[str, Any]]]
    leak: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ResultRow(RowOrigin):
    """With its numbers: `values` has one per run for every metric in tables; `interval` is the 95 % bootstrap interval
    over cases of the headline's mean over runs; `per_class` the mean over runs, None for a class that does not occur.
    """

    values: dict[str, list[float]]
    interval: tuple[float, float] | None
    per_class: dict[str, float | None]

    @classmethod
    def of(cls, origin: RowOrigin, scores: ContenderScores, metrics: Sequence[str]) -> ResultRow:
        """`metrics` are those in tables, the headline first."""
        return cls(
            *(getattr(origin, each.name) for each in fields(origin)),
            values={name: scores.values(name) for name in metrics},
            interval=scores.interval(metrics[0]),
            per_class=scores.per_class(),
        )

    def mean(self, metric: str) -> float:
        """Mean over runs."""
        return float(np.mean(self.values[metric]))

    def deviation(self, metric: str) -> float | None:
        """Standard deviation over runs (n - 1 in the denominator); None for a single one."""
        values = self.values[metric]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class EvaluationResults:
    """`data` and `tasks` describe what was evaluated; `scores` has the predictions and every metric of them, from which
    the numbers of the `rows` are. `hidden`: names that tables for others must not have; results.json and the
    predictions have them.
    """

    data: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    rows: list[ResultRow]
    scores: PredictionScores
    hidden: Aliases = field(default_factory=Aliases)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row per arm, protocol, run and frame."""
        return self.scores.predictions.table

    def row(self, task: str, protocol: str, arm: str) -> ResultRow:
        """One row of the table. Raises KeyError if it is not there."""
        for row in self.rows:
            if (row.task, row.protocol, row.arm) == (task, protocol, arm):
                return row
        raise KeyError((task, protocol, arm))

    def to_json(self) -> dict[str, Any]:
        """What results.json holds; NaN is written as null."""
        tree = {
            "format": FORMAT,
            "trocar": __version__,
            "data": self.data,
            "tasks": self.tasks,
            "rows": [_row_json(row, self.tasks[row.task]["headline"]) for row in self.rows],
        }
        return dict(_finite(tree))

    def tables(self) -> list[Table]:
        """For the terminal one table per task: the headline with its interval, the other metrics as means; and one of
        the classes where one of them is a background.
        """
        found = []
        for task in self.tasks:
            found += [self._terminal_table(task), *self._class_tables(task)]
        return found

    def to_markdown(self) -> str:
        """The same tables in Markdown, with what they were measured on."""
        parts = [f"Data: {self.data['layout']}, {self.data['frames']} frames of {self.data['cases']} cases.\n"]
        for task in self.tasks:
            header, body = self._cells(task)
            parts.append(f"## {task}\n\n{self._caption(task)}\n\n{markdown(header, body)}")
            parts += [markdown(titles, body) for titles, body in self._class_cells(task, len(self.rows))]
        return self.hidden.text("\n".join(parts))

    def write(self, out: Path) -> None:
        """Write predictions.parquet, metrics.json, results.json and results.md under `out`, each complete or not at
        all.
        """
        out.mkdir(parents=True, exist_ok=True)
        replace(self.scores.predictions, path=out / PREDICTIONS).write()
        write_atomic(out / "results.md", self.to_markdown())
        write_atomic(out / "results.json", json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
        MetricsReport(self.scores).write(out / METRICS)

    def _caption(self, task: str) -> str:
        about = self.tasks[task]
        precision = self.data.get("computed", {}).get("precision", "float32")
        computed = f" Networks computed in {precision}." if precision != "float32" else ""
        dropped = f" Not in the test frames: {few(about['absent'])}." if about["absent"] else ""
        dropped += f" {about['incomplete'].capitalize()}." if about["incomplete"] else ""
        labels = f", {about['budget']}" if about["budget"] else ""
        interval = ", [95 % interval over cases]" if any(row.interval for row in self.rows if row.task == task) else ""
        return (
            f"{about['frames']} frames, {about['cases']} cases, {about['scheme']}{labels}. "
            f"Headline: {about['headline']}; mean ± sd over runs{interval}.{dropped}{computed}"
        )

    def _terminal_table(self, task: str) -> Table:
        headline = self.tasks[task]["headline"]
        others = [metric for metric in self.tasks[task]["metrics"] if metric != headline]
        table = Table(title=task, caption=self._caption(task))
        table.add_column("backbone", overflow="fold")
        table.add_column("protocol", overflow="fold")
        for name in (headline, *others):
            title = name.replace("@", "\n@").replace(NO_BACKGROUND, f"\n{NO_BACKGROUND}")
            table.add_column(title, justify="right", overflow="fold")
        table.add_column("leak", overflow="fold")
        for row in (row for row in self.rows if row.task == task):
            cells = _cells(row, headline, [])
            values = (f"{row.mean(name):.3f}" for name in others)
            arm, protocol = map(self.hidden.text, cells[:2])
            table.add_row(arm, protocol, " ".join(cells[2:4]).strip(), *values, row.leak.get("verdict", ""))
        return table

    def _class_tables(self, task: str) -> list[Table]:
        tables = []
        for titles, body in self._class_cells(task, ABREAST):
            table = Table(title=f"{task}, classes")
            for place, title in enumerate(titles):
                table.add_column(self.hidden.text(title), justify="right" if place else "left", overflow="fold")
            for line in body:
                table.add_row(*line)
            tables.append(table)
        return tables

    def _class_cells(self, task: str, abreast: int) -> Iterator[tuple[list[str], list[list[str]]]]:
        """Header and lines of tables with a line per class, the background last, and a column per arm and protocol, at
        most `abreast`; none of a task without a background.
        """
        about = self.tasks[task]
        background = about.get("background")
        if background is None:
            return
        names = class_lines(about["classes"], background)
        rows = [row for row in self.rows if row.task == task]
        for start in range(0, len(rows), abreast):
            part = rows[start : start + abreast]
            titles = [f"{about['per_class']} by class", *(f"{row.arm}, {row.protocol}" for row in part)]
            body = [[line, *(_value(row, name) for row in part)] for name, line in names.items()]
            yield titles, body

    def _cells(self, task: str) -> tuple[list[str], list[list[str]]]:
        rows = [row for row in self.rows if row.task == task]
        headline = self.tasks[task]["headline"]
        others = [metric for metric in self.tasks[task]["metrics"] if metric != headline]
        body = [_cells(row, headline, others) for row in rows]
        return ["backbone", "protocol", headline, "interval", *others, "seeds", "leak"], body


def few(names: Sequence[str], shown: int = FEW) -> str:
    """All names, or of more than `shown` their number and the first of them."""
    if len(names) <= shown:
        return ", ".join(names)
    return f"{len(names)} classes ({', '.join(names[:FIRST])}, ...)"


def markdown(titles: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, ["---"] * len(titles), *body)) + "\n"


def _value(row: ResultRow, name: str) -> str:
    value = row.per_class.get(name)
    return "–" if value is None else f"{value:.3f}"


def _cells(row: ResultRow, headline: str, others: Sequence[str]) -> list[str]:
    interval = f"[{row.interval[0]:.3f}, {row.interval[1]:.3f}]" if row.interval else ""
    values = [_number(row, metric) for metric in (headline, *others)]
    return [row.arm, row.protocol, values[0], interval, *values[1:], str(len(row.members)), row.leak.get("verdict", "")]


def _number(row: ResultRow, metric: str) -> str:
    deviation = row.deviation(metric)
    return f"{row.mean(metric):.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")


def _row_json(row: ResultRow, headline: str) -> dict[str, Any]:
    metrics = {
        name: {"mean": row.mean(name), "sd": row.deviation(name), "values": values}
        for name, values in row.values.items()
    }
    return {
        "task": row.task,
        "protocol": row.protocol,
        "backbone": row.arm,
        "kind": row.kind,
        "members": row.members,
        "runs": [run._asdict() for run in row.runs],
        "headline": headline,
        "metrics": metrics,
        "interval": row.interval,
        "per_class": row.per_class,
        "detail": row.detail,
        "leak": row.leak,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
