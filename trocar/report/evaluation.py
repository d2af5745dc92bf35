"""The evaluation table: every backbone beside the baselines it has to beat, with intervals to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from trocar.downstream.evaluation.results import few
from trocar.downstream.metrics.registry import class_lines
from trocar.report.charts import bar, scale_of
from trocar.report.summary import headline

BESIDE = 5
"""Metrics beside each other: more would not be seen whole in a window of 1,300 pixels."""
_KINDS = {
    "backbone": "trained weights",
    "random": "random weights",
    "baseline": "no network",
    "majority": "no picture at all",
}


def section(results: Mapping[str, Any] | None) -> str:
    """One table per task of results.json, as `trocar evaluate` writes it; empty without results."""
    if not results or not results.get("rows"):
        return ""
    data = results["data"]
    about = f"{data['frames']:,} labelled frames of {data['cases']} cases ({data['layout']})"
    tables = [_task(task, info, results["rows"]) for task, info in results["tasks"].items()]
    notes = f'<p class="note">{escape("; ".join(map(str, data["notes"])))}.</p>' if data.get("notes") else ""
    return (
        f'<section><h2>What the features are worth</h2><p class="lead">{escape(about)}.</p>'
        f"{notes}{''.join(tables)}</section>"
    )


def _task(task: str, info: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    mine = [row for row in rows if row["task"] == task]
    head = str(info["headline"])
    others = [name for name in info["metrics"] if name != head]
    scale = _scale(mine)
    leading = ["Backbone", "Protocol", head, "95 % interval over cases", "Seeds", "Leak verdict"]
    tables = [_table(leading, {2, 4}, [_row(row, head, scale) for row in mine])]
    for start in range(0, len(others), BESIDE):
        names = others[start : start + BESIDE]
        numbers = set(range(2, 2 + len(names)))
        tables.append(_table(["Backbone", "Protocol", *names], numbers, [_others(row, names) for row in mine]))
    caption = (
        f"{info['frames']:,} frames, {info['cases']} cases, {info['scheme']}. Mean ± standard deviation over seeds."
    )
    absent = f" Classes without test frames: {few(info['absent'])}." if info.get("absent") else ""
    note = f'<p class="note">{escape(caption + absent)}</p>'
    return f"<h3>{escape(task)}</h3>{tables[0]}{note}{''.join(tables[1:])}{_classes(info, mine)}"


def _table(titles: Sequence[str], numbers: set[int], rows: Sequence[str]) -> str:
    header = "".join(
        f"<th{' class=number' if place in numbers else ''}>{escape(title)}</th>" for place, title in enumerate(titles)
    )
    return (
        f"<div class=scroll><table class=scores><thead><tr>{header}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _classes(info: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """A line per class of masks, the background last; empty where no background is declared."""
    background = info.get("background")
    if background is None:
        return ""
    heads = "".join(f"<th class=number>{escape(str(r['backbone']))}<br>{escape(str(r['protocol']))}</th>" for r in rows)
    lines = []
    for name, line in class_lines(info["classes"], background).items():
        values = (row["per_class"].get(name) for row in rows)
        cells = "".join(f"<td class=number>{'–' if value is None else f'{value:.3f}'}</td>" for value in values)
        lines.append(f"<tr><th scope=row>{escape(line)}</th>{cells}</tr>")
    return (
        f"<div class=scroll><table class=scores><thead><tr><th>{escape(str(info['per_class']))} by class</th>{heads}"
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _row(row: Mapping[str, Any], head: str, scale: tuple[float, float]) -> str:
    return _line(
        row,
        f"<td class=number><b>{_mean(row, head)}</b></td>",
        f"<td class=interval>{bar(headline(row), row.get('interval'), scale)}</td>",
        f"<td class=number>{len(row['members'])}</td>",
        f"<td class=wrap>{escape(str((row.get('leak') or {}).get('verdict', '')))}</td>",
    )


def _others(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return _line(row, *(f"<td class=number>{_mean(row, name)}</td>" for name in names))


def _line(row: Mapping[str, Any], *cells: str) -> str:
    """A row of a table: who it is, then `cells`, which are HTML."""
    kind = str(row["kind"])
    who = (
        f"<th scope=row>{escape(str(row['backbone']))}<small>{escape(_KINDS.get(kind, kind))}</small></th>"
        f"<td class=wrap>{escape(str(row['protocol']))}</td>"
    )
    return f'<tr class="{"own" if kind == "backbone" else "baseline"}">{who}{"".join(cells)}</tr>'


def _mean(row: Mapping[str, Any], metric: str) -> str:
    found = row["metrics"].get(metric, {})
    if found.get("mean") is None:
        return "–"
    deviation = found.get("sd")
    return f"{found['mean']:.3f}" + (f" <small>± {deviation:.3f}</small>" if deviation is not None else "")


def _scale(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    return scale_of(v for row in rows for v in [headline(row), *(row.get("interval") or [])] if v is not None)
