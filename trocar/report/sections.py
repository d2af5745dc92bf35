"""Sections of the page: plain data in, HTML out. A section without data is an empty string."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import yaml

from trocar.report import charts
from trocar.report.figures import contact_sheet, data_uri, resized
from trocar.report.inputs import Gallery, Images, NeighbourComparison, PcaComparison, ReportInputs

MAIN_PANELS = (
    "loss",
    "dino_loss",
    "teacher_entropy",
    "feature_std",
    "rankme",
    "lr",
    "images_per_s",
    "data_wait",
    "device_wait",
    "grad_norm",
)
SPEEDS = ("images_per_s", "data_wait", "device_wait")
VIEWS, VIEW_HEIGHT = 4, 132
HEIGHT = 150  # pixels of an embedded frame; shown at most this high


def header(inputs: ReportInputs) -> str:
    """Title, status and who the run is."""
    record = inputs.record
    status = str(record.get("status", "unknown"))
    facts = [
        f"run {str(record.get('run_id', ''))[:8]}",
        f"attempt {record.get('attempt', '?')}",
        f"begun {record.get('created', '?')}",
        f"Trocar {record.get('trocar_version', '?')}",
    ]
    warning = ""
    if inputs.private:
        warning = '<p class="warning">This page shows frames of private videos. Share it as you would share them.</p>'
    return (
        f'<header><h1>{escape(inputs.title)} <span class="status {escape(status)}">{escape(status)}</span></h1>'
        f'<p class="facts">{escape("  ·  ".join(facts))}</p>{warning}</header>'
    )


def short(sentences: Sequence[str]) -> str:
    """The summary."""
    items = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<section class="short"><h2>In short</h2>{items}</section>'


def tiles(inputs: ReportInputs) -> str:
    """The last values of what one looks at first."""
    wanted = [
        ("step", "last step", "{:,.0f}", 1.0),
        ("loss", "loss", "{:.3f}", 1.0),
        ("rankme", "RankMe", "{:.1f}", 1.0),
        ("feature_std", "feature std", "{:.2f}", 1.0),
        ("images_per_s", "images/s", "{:,.0f}", 1.0),
        ("data_wait", "waiting for data", "{:.0f} %", 100.0),
        ("device_wait", "GPU waiting for data", "{:.0f} %", 100.0),
        ("peak_memory_mib", "peak GPU memory, MiB", "{:,.0f}", 1.0),
        ("skipped", "skipped steps", "{:.0f}", 1.0),
    ]
    found = []
    for key, label, form, scale in wanted:
        values = [row[key] for row in inputs.metrics if math.isfinite(row.get(key, math.nan))]
        # One value of a speed says little: the median over the second half of the run.
        steady = sorted(values[len(values) // 2 :]) if key in SPEEDS else values[-1:]
        if steady:
            found.append((label, form.format(steady[len(steady) // 2] * scale)))
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in found)
    return f'<dl class="tiles">{items}</dl>' if found else ""


def training(metrics: Sequence[Mapping[str, Any]], uniform_loss: float | None, resumes: Sequence[int]) -> str:
    """The curves; what is rarely looked at is folded away."""
    if not metrics:
        return ""
    drawn = charts.panels(metrics, uniform_loss)
    main = [panel for panel in drawn if panel.key in MAIN_PANELS]
    rest = [panel for panel in drawn if panel.key not in MAIN_PANELS]
    more = f"<details><summary>{len(rest)} more</summary>{_grid(rest, metrics, resumes)}</details>" if rest else ""
    mark = '<p class="note">A dotted vertical line: an attempt went on from there.</p>' if resumes else ""
    return (
        f'<section><h2>Training</h2><p class="lead">Against the step. No labels are used in any of these.</p>'
        f"{_grid(main, metrics, resumes)}{mark}{more}</section>"
    )


def feature_maps(pca: PcaComparison | None) -> str:
    """Each frame with its patch features as colours, before and after."""
    if pca is None or not len(pca.images):
        return ""
    rows = [
        ("frame", [resized(image, HEIGHT) for image in pca.images]),
        ("random weights", [resized(image, HEIGHT) for image in pca.before]),
        ("trained", [resized(image, HEIGHT) for image in pca.after]),
    ]
    body = "".join(
        f"<tr><th scope=row>{label}</th>{''.join(f'<td>{picture(image, label)}</td>' for image in images)}</tr>"
        for label, images in rows
    )
    return (
        '<section><h2>What a patch is similar to</h2><p class="lead">The first three principal components of the patch '
        "features as red, green and blue. Patches of one colour look alike to the network; a colour means the same "
        "in every frame of a row, and nothing from one row to the next.</p>"
        f'<div class=scroll><table class="pictures"><tbody>{body}</tbody></table></div></section>'
    )


def neighbour_frames(found: NeighbourComparison | None) -> str:
    """Each query with its nearest frames by random and by trained weights."""
    if found is None or not len(found.queries):
        return ""
    blocks = []
    for index, query in enumerate(found.queries):
        k = found.after.shape[1]
        rows = "".join(
            f"<tr><th scope=row>{label}</th>{_cells(found.gallery, nearest)}</tr>"
            for label, nearest in (("random weights", found.before[index]), ("trained", found.after[index]))
        )
        first = f"<td rowspan=2 class=query>{_figure(found.gallery, int(query))}</td>"
        rows = rows.replace("<tr>", f"<tr>{first}", 1)
        blocks.append(f"<tbody>{rows}</tbody>")
    return (
        '<section><h2>Nearest frames</h2><p class="lead">The query on the left; beside it the '
        f"{k} most similar of {len(found.gallery.images):,} frames by cosine similarity. Frames of its own case "
        "are left out: any network finds those similar.</p>"
        f'<div class=scroll><table class="pictures neighbours">{"".join(blocks)}</table></div></section>'
    )


def frames(gallery: Gallery | None) -> str:
    """A contact sheet of what was trained on."""
    if gallery is None or not len(gallery.images):
        return ""
    items = "".join(_figure(gallery, index) for index in range(len(gallery.images)))
    return (
        '<section><h2>Frames</h2><p class="lead">A sample of the selected frames, spread over the cases.</p>'
        f'<div class="sheet">{items}</div></section>'
    )


def views(groups: Mapping[str, Images] | None) -> str:
    """What the network saw: one column per sample, a row per view, the groups below each other."""
    if not groups:
        return ""
    parts = []
    for name, crops in groups.items():
        b, n, side = crops.shape[:3]
        shown = min(n, VIEWS)
        # [shown, b]: a frame keeps its column through all groups.
        tiles = crops[:, :shown].swapaxes(0, 1).reshape(shown * b, *crops.shape[2:])
        sheet = contact_sheet(np.stack([resized(tile, VIEW_HEIGHT) for tile in tiles]), b)
        text = f"{name}: {f'{shown} of {n}' if shown < n else n} views of {side} px; one frame per column"
        parts.append(f"<figure>{picture(sheet, text)}<figcaption>{escape(text)}</figcaption></figure>")
    return (
        '<section><h2>Views</h2><p class="lead">Crops of the first batch as the network got them: cropped, flipped, '
        f'coloured, blurred.</p><div class="groups">{"".join(parts)}</div></section>'
    )


def how(inputs: ReportInputs) -> str:
    """Versions, fingerprints and the configuration: what it takes to run it again."""
    rows = "".join(
        f"<tr><th scope=row>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>"
        for key, value in inputs.provenance.items()
    )
    table = f'<div class=scroll><table class="facts"><tbody>{rows}</tbody></table></div>' if rows else ""
    config = ""
    if inputs.config:
        text = yaml.safe_dump(dict(inputs.config), sort_keys=False, allow_unicode=True)
        config = f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>"
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in inputs.notes)
    return f"<section><h2>How it was run</h2>{table}{config}{notes}</section>" if table or config or notes else ""


def _grid(panels: Sequence[charts.Panel], metrics: Sequence[Mapping[str, Any]], resumes: Sequence[int]) -> str:
    items = [
        f"<figure{' class=wide' if panel.wide else ''}><h3>{escape(panel.title)}</h3>"
        f"{charts.draw(panel, metrics, resumes)}<figcaption>{escape(panel.note)}</figcaption></figure>"
        for panel in panels
    ]
    return f'<div class="curves">{"".join(items)}</div>'


def _cells(gallery: Gallery, indices: Sequence[int] | Any) -> str:
    return "".join(f"<td>{_figure(gallery, int(index))}</td>" for index in indices)


def _figure(gallery: Gallery, index: int) -> str:
    caption = str(gallery.captions[index])
    shown = picture(resized(gallery.images[index], HEIGHT), caption)
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def picture(image: Images, text: str) -> str:
    """An embedded picture with its description."""
    height, width = image.shape[:2]
    return f'<img src="{data_uri(image)}" width="{width}" height="{height}" alt="{escape(text)}">'
