"""The evaluation table: every backbone beside the baselines it has to beat, with intervals to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from trocar.report.summary import headline

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
    titles = ["Backbone", "Protocol", head, "95 % interval over cases", *others, "Seeds"]
    numbers = {2, *range(4, len(titles))}
    header = "".join(
        f"<th{' class=number' if place in numbers else ''}>{escape(title)}</th>" for place, title in enumerate(titles)
    )
    body = "".join(_row(row, head, others, scale) for row in mine)
    caption = (
        f"{info['frames']:,} frames, {info['cases']} cases, {info['scheme']}. Mean ± standard deviation over seeds."
    )
    absent = f" Classes without test frames: {', '.join(info['absent'])}." if info.get("absent") else ""
    return (
        f"<h3>{escape(task)}</h3><div class=scroll><table class=scores><thead><tr>{header}</tr></thead>"
        f'<tbody>{body}</tbody></table></div><p class="note">{escape(caption + absent)}</p>'
    )


def _row(row: Mapping[str, Any], head: str, others: Sequence[str], scale: tuple[float, float]) -> str:
    kind = str(row["kind"])
    cells = [
        f"<th scope=row>{escape(str(row['backbone']))}<small>{escape(_KINDS.get(kind, kind))}</small></th>",
        f"<td>{escape(str(row['protocol']))}</td>",
        f"<td class=number><b>{_mean(row, head)}</b></td>",
        f"<td class=interval>{_dot_and_interval(row, scale)}</td>",
        *(f"<td class=number>{_mean(row, name)}</td>" for name in others),
        f"<td class=number>{len(row['members'])}</td>",
    ]
    return f'<tr class="{"own" if kind == "backbone" else "baseline"}">{"".join(cells)}</tr>'


def _mean(row: Mapping[str, Any], metric: str) -> str:
    found = row["metrics"].get(metric, {})
    if found.get("mean") is None:
        return "–"
    deviation = found.get("sd")
    return f"{found['mean']:.3f}" + (f" <small>± {deviation:.3f}</small>" if deviation is not None else "")


def _scale(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    values = [v for row in rows for v in [headline(row), *(row.get("interval") or [])] if v is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _dot_and_interval(row: Mapping[str, Any], scale: tuple[float, float]) -> str:
    """A dot at the mean and a bar over the interval, on one scale for the whole table."""
    mean = headline(row)
    if mean is None:
        return ""

    def at(value: float) -> float:
        return 180 * (value - scale[0]) / (scale[1] - scale[0])

    bar, text = "", f"{mean:.3f}"
    if row.get("interval"):
        low, high = row["interval"]
        bar = f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="9" y2="9"/>'
        text += f", 95 % interval {low:.3f} to {high:.3f}"
    return (
        f'<svg viewBox="0 0 180 18" width="180" height="18" role="img" aria-label="{text}"><title>{text}</title>'
        f'<path d="M0 9H180"/>{bar}<circle cx="{at(mean):.1f}" cy="9" r="4.5"/></svg>'
    )
