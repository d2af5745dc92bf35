"""The page: sections in order, one file, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from trocar import __version__
from trocar.core.files import write_atomic
from trocar.privacy.marks import html_without_folders, without_folders
from trocar.report import evaluation, sections
from trocar.report.inputs import ReportInputs
from trocar.report.summary import summary


def render(inputs: ReportInputs) -> str:
    """The whole report as HTML. Every string from data is escaped; images and styles are inside."""
    body = [
        sections.header(inputs),
        sections.short(summary(inputs)),
        sections.tiles(inputs),
        evaluation.section(inputs.evaluation),
        sections.training(inputs.metrics, inputs.uniform_loss, inputs.resumes),
        sections.feature_maps(inputs.pca),
        sections.neighbour_frames(inputs.neighbours),
        sections.frames(inputs.frames),
        sections.views(inputs.views),
        sections.how(inputs),
    ]
    return document(inputs.title, body)


def document(title: str, parts: Sequence[str], style: str = "") -> str:
    """The shell of every report: `parts` are HTML, `style` is added to the common style sheet.

    Pages are made to be shared: no folder of this machine is on them.
    """
    common = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        # A page that may show operations must not tell anybody that it was opened.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(without_folders(title))}</title><style>{common}{style}</style></head>\n<body><main>\n"
        + "\n".join(html_without_folders(part) for part in parts if part)
        + f"\n</main><footer>Made by Trocar {escape(__version__)}. This file needs no network.</footer></body></html>\n"
    )


def write(inputs: ReportInputs, folder: Path) -> Path:
    """Write `folder`/index.html and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    write_atomic(path, render(inputs))
    return path
