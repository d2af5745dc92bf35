"""The result in sentences, each made from the numbers it speaks of, and every backbone beside the baselines to beat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trocar.downstream.evaluation.results import few
from trocar.downstream.metrics.registry import class_lines
from trocar.report.charts import scale_of
from trocar.report.run_inputs import RunInputs
from trocar.runs.step_metrics import judged_loss

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


_STATUS = {
    "finished": "The run is finished",
    "running": "The run is still going on",
    "failed": "The run failed",
    "killed": "The run was stopped before its end (the same command continues it)",
}


def summary(inputs: RunInputs) -> list[str]:
    """Plain-text sentences: how far it got, what the loss did, what the features are worth."""
    evaluated = evaluation_sentences(inputs.evaluation) if inputs.evaluation else []
    return [*training_sentences(inputs), *evaluated]


def training_sentences(inputs: RunInputs) -> list[str]:
    """Steps, loss against ln K, and a collapse named as such."""
    status = _STATUS.get(str(inputs.record.get("status")), "The run has an unknown status")
    key = judged_loss(inputs.metrics[-1] if inputs.metrics else {})
    losses = [(int(r["step"]), float(r[key])) for r in inputs.metrics if math.isfinite(r.get(key, math.nan))]
    if not losses:
        return [f"{status}; no loss has been logged."]
    (first_step, first), (last_step, last) = losses[0], losses[-1]
    # Not the marks of the curves: of an attempt that logged nothing, or whose steps were made again, there is none.
    attempts = inputs.record.get("attempt")
    times = f" in {attempts} attempts" if isinstance(attempts, int) and attempts > 1 else ""
    done = max(last_step + 1, int(inputs.record.get("saved_step", 0)))  # steps count from 0, and not all are logged
    sentences = [
        f"{status} after {done:,} steps{times}. "
        f"The {key.replace('_', ' ')} went from {first:.3f} (step {first_step:,}) "
        f"to {last:.3f}{_against(last, inputs.uniform_loss)}."
    ]
    if inputs.uniform_loss is not None and abs(last - inputs.uniform_loss) < 0.01 * inputs.uniform_loss:
        why = "has only begun" if inputs.record.get("status") == "running" else "has learned nothing yet"
        sentences.append(f"That is the loss of uniform outputs: the run {why}, or it has collapsed.")
    ranks = [(int(r["step"]), float(r["rankme"])) for r in inputs.metrics if math.isfinite(r.get("rankme", math.nan))]
    if len(ranks) > 1:
        sentences.append(
            f"The effective rank of the features (RankMe) went from {ranks[0][1]:.1f} to {ranks[-1][1]:.1f}."
        )
    return sentences


def evaluation_sentences(results: Mapping[str, Any]) -> list[str]:
    """For each task and protocol: every backbone against random weights and the best plain baseline."""
    rows: Sequence[Mapping[str, Any]] = results.get("rows", [])
    sentences = []
    for task, protocol in dict.fromkeys((r["task"], r["protocol"]) for r in rows if r["kind"] == "backbone"):
        same = [r for r in rows if r["task"] == task and r["protocol"] == protocol]
        for row in (r for r in same if r["kind"] == "backbone" and headline(r) is not None):
            sentences.append(_comparison(task, protocol, row, same))
    return sentences


def headline(row: Mapping[str, Any]) -> float | None:
    """Mean over seeds of the metric a row is judged by; None where it is undefined."""
    value = row["metrics"][row["headline"]]["mean"]
    return None if value is None else float(value)


def _comparison(task: str, protocol: str, row: Mapping[str, Any], same: Sequence[Mapping[str, Any]]) -> str:
    own = headline(row)
    assert own is not None
    text = f"On {task} ({protocol}) {row['backbone']} reaches {row['headline']} {own:.3f}{_interval(row)}"
    against = []
    for kind, word in (("random", "random weights"), ("baseline", "the best plain baseline")):
        others = [r for r in same if r["kind"] == kind and headline(r) is not None]
        if others:
            best = max(others, key=lambda r: headline(r) or -math.inf)
            name = f"{word} ({best['backbone']})"
            against.append(f"{own - (headline(best) or 0):+.3f} against {name}{_apart(row, best)}")
    return text + ("".join(f"; {part}" for part in against)) + "."


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    if not a.get("interval") or not b.get("interval"):
        return ""
    apart = a["interval"][0] > b["interval"][1] or b["interval"][0] > a["interval"][1]
    return ", 95 % intervals apart" if apart else ", 95 % intervals overlap"


def _interval(row: Mapping[str, Any]) -> str:
    return f" [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]" if row.get("interval") else ""


def _against(loss: float, uniform: float | None) -> str:
    return f" (ln K = {uniform:.3f})" if uniform is not None else ""
