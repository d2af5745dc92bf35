"""The first sheet of an .xlsx workbook as a table.

openpyxl would read everything a workbook can hold; one label file with a header row is all that is needed here.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from trocar.errors import TrocarError

MOST_BYTES = 50_000_000
"""Of an unpacked part: a larger one is no table of labels."""
_SHEET, _TEXTS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_sheet(path: Path) -> pd.DataFrame:
    """The first row names the columns; cells are text or float, missing where empty; empty rows are left out.

    Raises TrocarError for a file that is no workbook.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = [_text(item) for item in _part(book, _TEXTS)] if _TEXTS in book.namelist() else []
            rows = [_row(row, texts) for row in _part(book, _SHEET).iter(f"{_MAIN}row")]
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise TrocarError(f"{path}: not an .xlsx workbook, or a damaged one ({error}); download it again") from None
    if not rows:
        raise TrocarError(f"{path}: the first sheet is empty")
    names = {column: str(value).strip() for column, value in rows[0].items() if value is not None}
    found: pd.DataFrame = pd.DataFrame(
        [
            {name: row.get(column) for column, name in names.items()}
            for row in rows[1:]
            if any(v is not None for v in row.values())
        ],
        columns=list(names.values()),
    )
    return found


def _part(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES} bytes")
    data = book.read(name)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError(f"{name} declares entities")
    return ElementTree.fromstring(data)


def _text(item: ElementTree.Element) -> str:
    return "".join(piece.text or "" for piece in item.iter(f"{_MAIN}t"))


def _row(row: ElementTree.Element, texts: list[str]) -> dict[str, str | float | None]:
    """Column letters -> value. A cell says where it is, since empty ones may be left out."""
    cells = {}
    for cell in row.iter(f"{_MAIN}c"):
        place = re.match(r"[A-Z]+", cell.get("r", ""))
        if place is None:
            raise ValueError(f"a cell at {cell.get('r')!r}")
        cells[place[0]] = _value(cell, texts)
    return cells


def _value(cell: ElementTree.Element, texts: list[str]) -> str | float | None:
    kind, value = cell.get("t", "n"), cell.findtext(f"{_MAIN}v")
    if kind == "inlineStr":
        return _text(cell)
    if value is None:
        return None
    return texts[int(value)] if kind == "s" else float(value) if kind in ("n", "b") else value
