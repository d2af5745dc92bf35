"""Pictures of predictions: ribbons, confusion, precision and recall, reliability.

Readable with any colour vision: see `style`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from trocar.downstream.figures.curves import draw_curves, draw_reliability
from trocar.downstream.figures.phases import draw_confusion, draw_ribbons
from trocar.downstream.figures.style import ShownRun, shown


def draw(predictions: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]], out: Path) -> list[Path]:
    """Write the PNG figures of every backbone and protocol to `out` and return their paths.

    `predictions` has the columns of predictions.parquet, `tasks` what results.json says of each task: here its
    `classes`. One label a frame: ribbons of all test cases, confusion matrix. Several: precision-recall curves.
    Reliability diagrams where the scores are probabilities. Of several runs the first is drawn, and the title says so.
    """
    paths: list[Path] = []
    taken: set[str] = set()
    for one in shown(predictions, tasks):
        stem = _stem(one, taken)
        if one.single:
            paths += draw_ribbons(one, out, stem)
            paths.append(draw_confusion(one, out / f"{stem}-confusion.png"))
        else:
            paths += draw_curves(one, out / f"{stem}-precision-recall.png")
        if one.has_probabilities:
            paths.append(draw_reliability(one, out / f"{stem}-reliability.png"))
    return paths


def _stem(one: ShownRun, taken: set[str]) -> str:
    """Start of the file names; arms whose labels differ only in characters that files cannot have get numbers."""
    stem = "-".join(re.sub(r"[^\w.+]+", "_", part).strip("_.") for part in (one.task, one.backbone, one.protocol))
    found, number = stem, 1
    while found in taken:
        number += 1
        found = f"{stem}-{number}"
    taken.add(found)
    return found
