"""Pieces of tiny labelled video data sets: clips whose frames can be told apart, tables, images, workbooks."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def write_video(path: Path, frames: int, fps: int) -> Path:
    """Frame k is uniformly grey with value 16 + 2 * (k modulo 110)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for k in range(frames):
            image = np.full((32, 32, 3), grey(k), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey(frame: int) -> int:
    """The value of frame `frame` of `write_video`."""
    return 16 + 2 * (frame % 110)


def write_text(path: Path, rows: Sequence[Sequence[Any]], sep: str = "\t") -> Path:
    """One line a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(sep.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def write_image(path: Path, value: int = 100) -> Path:
    """A small uniformly grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path)
    return path


def write_workbook(path: Path, rows: Sequence[Sequence[str | float | None]]) -> Path:
    """An .xlsx file as Excel writes it: texts in a table of their own, empty cells left out."""
    texts = sorted({cell for row in rows for cell in row if isinstance(cell, str)})
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = [_cell(f"{chr(65 + i)}{number}", cell, texts) for i, cell in enumerate(row) if cell is not None]
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as book:
        book.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {main}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )
        shared = "".join(f"<si><t>{text}</t></si>" for text in texts)
        book.writestr("xl/sharedStrings.xml", f"<sst {main}>{shared}</sst>")
    return path


def _cell(place: str, value: str | float, texts: list[str]) -> str:
    if isinstance(value, str):
        return f'<c r="{place}" t="s"><v>{texts.index(value)}</v></c>'
    return f'<c r="{place}"><v>{value}</v></c>'
