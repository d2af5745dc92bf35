"""Label tables in formats of others, read without running anything in them.

openpyxl would read everything a workbook can hold; one label file with a header row is all that is needed here.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from trocar.core.tables import Table, of_texts
from trocar.errors import TrocarError

MOST_BYTES = 50_000_000
"""Of an unpacked part: a larger one is no table of labels."""
_SHEET, _TEXTS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_sheet(path: Path, columns: Sequence[str]) -> Table:
    """These columns, named by the first row; rows that are empty in all of them are left out.

    Raises TrocarError for a file that is no workbook, and for a column that is not there.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = [_text(item) for item in _part(book, _TEXTS)] if _TEXTS in book.namelist() else []
            rows = [_row(row, texts) for row in _part(book, _SHEET).iter(f"{_MAIN}row")]
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise TrocarError(f"{path}: not an .xlsx workbook, or a damaged one ({error}); download it again") from None
    if not rows:
        raise TrocarError(f"{path}: the first sheet is empty")
    places = {(value or "").strip(): letters for letters, value in rows[0].items()}
    found = [(row, [cells.get(places[name]) for name in columns if name in places]) for row, cells in enumerate(rows)]
    found = [(row, cells) for row, cells in found[1:] if any(cells)]
    cells = {name: [values[i] for _, values in found] for i, name in enumerate(n for n in columns if n in places)}
    table = of_texts(path, cells, np.array([row for row, _ in found], dtype=np.int64))
    table.need(*columns)
    return table


def _part(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES} bytes")
    data = book.read(name)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError(f"{name} declares entities")
    return ElementTree.fromstring(data)


def _text(item: ElementTree.Element) -> str:
    return "".join(piece.text or "" for piece in item.iter(f"{_MAIN}t"))


def _row(row: ElementTree.Element, texts: list[str]) -> dict[str, str | None]:
    """Column letters -> value. A cell says where it is, since empty ones may be left out."""
    cells = {}
    for cell in row.iter(f"{_MAIN}c"):
        place = re.match(r"[A-Z]+", cell.get("r", ""))
        if place is None:
            raise ValueError(f"a cell at {cell.get('r')!r}")
        cells[place[0]] = _value(cell, texts)
    return cells


def _value(cell: ElementTree.Element, texts: list[str]) -> str | None:
    if cell.get("t") == "inlineStr":
        return _text(cell).strip()
    value = cell.findtext(f"{_MAIN}v")
    return texts[int(value)].strip() if value is not None and cell.get("t") == "s" else value


def _number(kind: np.dtype[Any], data: bytes) -> Any:
    if kind.kind not in "biuf":
        raise pickle.UnpicklingError(f"it holds a numpy value of type {kind}")
    return np.frombuffer(data, kind, count=1)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how old protocols write bytes


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
"""numpy's numbers, which published label lists may hold beside Python's own."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_frame_lists(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Video name -> records of its frames, from a file of SelfSupSurg or MultiBypass140.

    Raises TrocarError for a file that would run code, is damaged, or holds something else.
    """
    try:
        tree = _Plain(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise TrocarError(
            f"{path}: refused: {error}; a list of frames holds text and numbers only. Download it again"
        ) from None
    except (OSError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, MemoryError) as error:
        raise TrocarError(f"{path}: not a pickle file, or a damaged one ({error}); download it again") from None
    if not isinstance(tree, dict) or not all(isinstance(records, list) for records in tree.values()):
        raise TrocarError(f"{path}: expected a dictionary of one list of frames per video")
    return {str(video): records for video, records in tree.items()}
