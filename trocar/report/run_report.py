"""The page about a run: its inputs put into the words, tables, curves and pictures that the templates lay out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trocar.core.files import write_atomic
from trocar.core.messages import Say
from trocar.errors import TrocarError
from trocar.report.charts import Panel, draw_panel, panels
from trocar.report.gather_run import gather
from trocar.report.page_pictures import Images, Picture, contact_sheet, first_views, resized
from trocar.report.run_inputs import Gallery, NeighbourComparison, PcaComparison, RunInputs
from trocar.report.run_summary import EvaluationTables, evaluation_of, summary
from trocar.report.templating import render_template
from trocar.runs.run_folder import read_config, read_record

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
