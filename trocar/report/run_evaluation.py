"""Tables of an evaluation: every backbone beside the baselines that it has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trocar.downstream.evaluation.results import few
from trocar.downstream.metrics.registry import class_lines
from trocar.report.charts import scale_of
from trocar.report.run_summary import headline

BESIDE = 5
"""Metrics beside each other: more would not be seen whole in a window of 1,300 pixels."""


@dataclass(frozen=True)
class EvaluatedTask:
    """One task: `rows` of results.json, judged by the metric `head`, which is drawn on `scale`. `others` are the other
    metrics, as many as a table holds. `classes`: class -> its value in every row, undefined ones None.
    """

    name: str
    head: str
    rows: Sequence[Mapping[str, Any]]
    scale: tuple[float, float]
    others: Sequence[Sequence[str]]
    note: str
    class_metric: str
    classes: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class EvaluationTables:
    """results.json as `trocar evaluate` writes it, ready to be laid out."""

    about: str
    notes: Sequence[str]
    tasks: Sequence[EvaluatedTask]


def evaluation_of(results: Mapping[str, Any] | None) -> EvaluationTables | None:
    """The tables of results.json; None without rows."""
    if not results or not results.get("rows"):
        return None
    data = results["data"]
    return EvaluationTables(
        about=f"{data['frames']:,} labelled frames of {data['cases']} cases ({data['layout']})",
        notes=[str(note) for note in data.get("notes") or ()],
        tasks=[_task(name, info, results["rows"]) for name, info in results["tasks"].items()],
    )


def _task(name: str, info: Mapping[str, Any], all_rows: Sequence[Mapping[str, Any]]) -> EvaluatedTask:
    rows = [row for row in all_rows if row["task"] == name]
    head = str(info["headline"])
    others = [metric for metric in info["metrics"] if metric != head]
    ends = (end for row in rows for end in (headline(row), *(row.get("interval") or ())))
    note = f"{info['frames']:,} frames, {info['cases']} cases, {info['scheme']}. Mean ± standard deviation over seeds."
    if info.get("absent"):
        note += f" Classes without test frames: {few(info['absent'])}."
    background = info.get("background")
    lines = class_lines(info["classes"], background) if background is not None else {}
    return EvaluatedTask(
        name=name,
        head=head,
        rows=rows,
        scale=scale_of(end for end in ends if end is not None),
        others=[others[start : start + BESIDE] for start in range(0, len(others), BESIDE)],
        note=note,
        class_metric=str(info.get("per_class", "")),
        classes={line: [row["per_class"].get(key) for row in rows] for key, line in lines.items()},
    )
