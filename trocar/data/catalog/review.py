"""Frames that may show something else than the inside of a patient: which, as a list and as pictures for a person.

The list is at once what `trocar ingest --exclude` reads: whoever reviews it deletes the rows that are in the body.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from trocar.core.random import I64
from trocar.data.catalog.catalog import OUT_OF_BODY_THRESHOLD, REVIEW_THRESHOLD, Catalog
from trocar.data.catalog.inspection import read_frame

COLUMNS = ("video", "start", "end", "out_of_body", "verdict")
_ACROSS, _CELL, _CAPTION, _PER_SHEET = 8, 160, 14, 160


def is_doubtful(catalog: Catalog) -> npt.NDArray[np.bool_]:
    """bool[len(catalog)]: whether a frame's out-of-body score is too high to show it to others unseen."""
    doubtful: npt.NDArray[np.bool_] = catalog.quality(["out_of_body"])["out_of_body"] >= REVIEW_THRESHOLD
    return doubtful


def write_review(catalog: Catalog, path: Path) -> tuple[I64, list[Path]]:
    """Write the list of doubtful frames to `path` and pictures of them beside it; returns rows and picture files.

    A row is a time span in seconds around one frame, its score and `out` (left out by `curate: default` already) or
    `uncertain`. The list holds names of videos and the pictures are of operations: they are for the reviewer alone.
    """
    rows = np.flatnonzero(is_doubtful(catalog)).astype(np.int64)
    scores = catalog.quality(["out_of_body"])["out_of_body"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_line(catalog, int(row), float(scores[row])) for row in rows)
    sheets = []
    for page, start in enumerate(range(0, len(rows), _PER_SHEET), start=1):
        sheets.append(path.with_name(f"{path.stem}-{page}.png"))
        _sheet(catalog, rows[start : start + _PER_SHEET], scores).save(sheets[-1])
    return rows, sheets


def _line(catalog: Catalog, row: int, score: float) -> tuple[str, str, str, str, str]:
    video = int(catalog.frames["video"][row])
    verdict = "out" if score >= OUT_OF_BODY_THRESHOLD else "uncertain"
    name = str(catalog.videos["name"][video].as_py())
    if catalog.is_still[video]:
        return name, "0", "", f"{score:.3f}", verdict  # all of it
    time, step = float(catalog.frames["time_s"][row]), 1 / float(catalog.videos["fps"][video].as_py())
    # A quarter of an interval before and half of one after: the frame is inside whatever the rounding, no other is.
    span = max(0.0, time - step / 4), time + step / 2
    return name, f"{span[0]:.4f}", f"{span[1]:.4f}", f"{score:.3f}", verdict


def _sheet(catalog: Catalog, rows: I64, scores: npt.NDArray[np.float32]) -> Image.Image:
    height = _CELL * 9 // 16 + _CAPTION
    sheet = Image.new("RGB", (_ACROSS * _CELL, -(-len(rows) // _ACROSS) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows.tolist()):
        corner = place % _ACROSS * _CELL, place // _ACROSS * height
        image = read_frame(catalog, row)
        image.thumbnail((_CELL - 2, height - _CAPTION))
        sheet.paste(image, corner)
        name = catalog.place(row)["video"]
        caption = f"{name[-12:]} {catalog.frames['time_s'][row]:.1f} s {scores[row]:.2f}"
        draw.text((corner[0] + 2, corner[1] + height - _CAPTION), caption, fill=(0, 0, 0))
    return sheet
