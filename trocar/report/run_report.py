"""The page about a run: its inputs put into the words, tables, curves and pictures that the templates lay out.

Each sentence is made from the numbers that it speaks of, and every backbone stands beside the baselines to beat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trocar.core.files import write_atomic
from trocar.core.messages import Say
from trocar.downstream.evaluation.results import few
from trocar.downstream.metrics.registry import class_lines
from trocar.errors import TrocarError
from trocar.report.charts import PROBE, Panel, draw_panel, panels, scale_of
from trocar.report.gather_run import RunInputs, gather
from trocar.report.page import Images, Picture, contact_sheet, first_views, render_template, resized
from trocar.report.run_pictures import Gallery, NeighbourComparison, PcaComparison
from trocar.runs.run_folder import judged_loss, read_config, read_record

TILES = (
    ("step", "last step", "{:,.0f}", 1.0),
    ("loss", "loss", "{:.3f}", 1.0),
    ("rankme", "RankMe", "{:.1f}", 1.0),
    ("feature_std", "feature std", "{:.2f}", 1.0),
    ("images_per_s", "images/s", "{:,.0f}", 1.0),
    ("data_wait", "waiting for data", "{:.0f} %", 100.0),
    ("device_wait", "GPU waiting for data", "{:.0f} %", 100.0),
    ("peak_memory_mib", "peak GPU memory, MiB", "{:,.0f}", 1.0),
    ("skipped", "skipped steps", "{:.0f}", 1.0),
)
"""What one looks at first: metric, name, format and factor."""
SPEEDS = ("images_per_s", "data_wait", "device_wait")
VIEWS, VIEW_HEIGHT = 4, 132
HEIGHT = 150  # pixels of an embedded frame; shown at most this high


@dataclass(frozen=True)
class NearestFrames:
    """`queries`: a frame, and its `k` nearest of all `searched` frames by each network, which is named."""

    k: int
    searched: int
    queries: Sequence[tuple[Picture, Sequence[tuple[str, Sequence[Picture]]]]]


@dataclass(frozen=True)
class RunPage:
    """What run.html.j2 shows. What is None or empty has no section."""

    title: str
    inputs: RunInputs
    sentences: Sequence[str]
    tiles: Sequence[tuple[str, str]]
    evaluation: EvaluationTables | None
    curves: Sequence[tuple[Panel, str]]
    feature_maps: Sequence[tuple[str, Sequence[Picture]]]
    nearest: NearestFrames | None
    frames: Sequence[Picture]
    views: Sequence[Picture]


def write_report(
    run: Path,
    evaluation: Path | None = None,
    say: Say = lambda _: None,
    share_frames: bool | None = None,
) -> Path:
    """Write `run`/report/index.html about a run folder and return its path; `say` is told what the page lacks.

    `evaluation` and `share_frames`: see `gather`, and so for what is raised.
    """
    read_record(run)  # a folder that is no run is said to be none, and not to have no views
    try:
        views = first_views(read_config(run))
    except TrocarError as error:
        say(f"no views: {error}")
        views = None
    inputs = gather(run, evaluation, views, say=say, share_frames=share_frames)
    for note in inputs.notes:
        say(note)
    return write(inputs, run / "report")


def write(inputs: RunInputs, folder: Path) -> Path:
    """Write `folder`/index.html and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    write_atomic(path, render(inputs))
    return path


def render(inputs: RunInputs) -> str:
    """The whole report as HTML; images and styles are inside."""
    page = RunPage(
        title=inputs.title,
        inputs=inputs,
        sentences=summary(inputs),
        tiles=_tiles(inputs.metrics),
        evaluation=evaluation_of(inputs.evaluation),
        curves=[
            (panel, draw_panel(panel, inputs.metrics, inputs.resumes))
            for panel in panels(inputs.metrics, inputs.uniform_loss)
        ],
        feature_maps=_feature_maps(inputs.pca) if inputs.pca is not None else (),
        nearest=_nearest(inputs.neighbours) if inputs.neighbours is not None else None,
        frames=_pictures(inputs.frames, range(len(inputs.frames.images))) if inputs.frames is not None else (),
        views=[_view_sheet(name, crops) for name, crops in (inputs.views or {}).items()],
    )
    return render_template("run.html.j2", page)


def _tiles(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Name -> the last value of what has been logged."""
    found = []
    for key, label, form, scale in TILES:
        values = [row[key] for row in metrics if math.isfinite(row.get(key, math.nan))]
        # One value of a speed says little: the median over the second half of the run.
        steady = sorted(values[len(values) // 2 :]) if key in SPEEDS else values[-1:]
        if steady:
            found.append((label, form.format(steady[len(steady) // 2] * scale)))
    return found


def _feature_maps(pca: PcaComparison) -> list[tuple[str, list[Picture]]]:
    """Each frame, and its patch features as colours before and after; empty without frames."""
    rows = {"frame": pca.images, "random weights": pca.before, "trained": pca.after}
    if not len(pca.images):
        return []
    return [(label, [Picture.of(image, label, HEIGHT) for image in images]) for label, images in rows.items()]


def _nearest(found: NeighbourComparison) -> NearestFrames | None:
    if not len(found.queries):
        return None
    shown = _pictures(found.gallery, found.queries)
    networks = (("random weights", found.before), ("trained", found.after))
    queries = [
        (query, [(label, _pictures(found.gallery, nearest[place])) for label, nearest in networks])
        for place, query in enumerate(shown)
    ]
    return NearestFrames(found.after.shape[1], len(found.gallery.images), queries)


def _pictures(gallery: Gallery, indices: Sequence[int] | Any) -> list[Picture]:
    return [Picture.of(gallery.images[index], str(gallery.captions[index]), HEIGHT) for index in map(int, indices)]


def _view_sheet(name: str, crops: Images) -> Picture:
    """What the network saw of one group: a column per sample, a row per view."""
    b, n, side = crops.shape[:3]
    shown = min(n, VIEWS)
    # [shown, b]: a frame keeps its column through all groups.
    tiles = crops[:, :shown].swapaxes(0, 1).reshape(shown * b, *crops.shape[2:])
    sheet = contact_sheet(np.stack([resized(tile, VIEW_HEIGHT) for tile in tiles]), b)
    of = f"{shown} of {n}" if shown < n else f"{n}"
    return Picture.of(sheet, f"{name}: {of} views of {side} px; one frame per column")


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
    return [*training_sentences(inputs), *probe_sentences(inputs), *evaluated]


def probe_sentences(inputs: RunInputs) -> list[str]:
    """For each probe: what it was at first, at last and at best, and a warning where the cases agree that it fell."""
    sentences = []
    for key in sorted({key for row in inputs.metrics for key in row if key.startswith(PROBE) and key.count("/") == 1}):
        name = key.removeprefix(PROBE)
        rows = [row for row in inputs.metrics if math.isfinite(row.get(key, math.nan))]
        if not rows:
            continue
        first, last, best = rows[0], rows[-1], max(rows, key=lambda row: float(row[key]))
        low, high = last.get(f"{key}/gain_low"), last.get(f"{key}/gain_high")
        paired = "" if low is None else f" (difference over the same cases: 95 % interval {low:+.3f} to {high:+.3f})"
        text = f"Probe {name} went from {first[key]:.3f} to {last[key]:.3f}{paired}"
        chosen = inputs.config.get("keep") == "best" and inputs.config.get("keep_by") in (None, name)
        marked = ", and backbone-best is of then: chosen by it, so its own value flatters it" if chosen else ""
        sentences.append(f"{text}; its best was {best[key]:.3f} at step {int(best['step']):,}{marked}.")
        if high is not None and high < 0:
            sentences.append(f"Warning: by probe {name} the features are worse than those that the run began with.")
    return sentences


def training_sentences(inputs: RunInputs) -> list[str]:
    """Steps, loss against ln K, and a collapse named as such."""
    status = _STATUS.get(str(inputs.record.get("status")), "The run has an unknown status")
    key = judged_loss(next((row for row in reversed(inputs.metrics) if "loss" in row), {}))
    losses = [(int(r["step"]), float(r[key])) for r in inputs.metrics if math.isfinite(r.get(key, math.nan))]
    if not losses:
        return [f"{status}; no loss has been logged."]
    (first_step, first), (last_step, last) = losses[0], losses[-1]
    # Not the marks of the curves: of an attempt that logged nothing, or whose steps were made again, there is none.
    attempts = inputs.record.get("attempt")
    times = f" in {attempts} attempts" if isinstance(attempts, int) and attempts > 1 else ""
    against = f" (ln K = {inputs.uniform_loss:.3f})" if inputs.uniform_loss is not None else ""
    done = max(last_step + 1, int(inputs.record.get("saved_step", 0)))  # steps count from 0, and not all are logged
    sentences = [
        f"{status} after {done:,} steps{times}. "
        f"The {key.replace('_', ' ')} went from {first:.3f} (step {first_step:,}) "
        f"to {last:.3f}{against}."
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
