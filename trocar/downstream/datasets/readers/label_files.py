"""Label files of others: tables read without running anything in them, and signs that frames are not what they seem.

openpyxl would read everything a workbook can hold; one label file with a header row is all that is needed here.

Images of a video at one a second: which second an image shows, and signs that they are not one a second. People
extract these images themselves: ffmpeg counts from 1, most scripts from 0, and some take all frames.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from trocar.core.tables import Table, of_texts
from trocar.errors import TrocarError

MOST, FEW = 1.5, 5
"""Images per labelled second from which on they cannot be one a second, and so many more may always lie behind the last
label.
"""


def numbered(paths: Iterable[Path]) -> dict[int, Path]:
    """Number at the end of its name -> image. Raises TrocarError for a name without one, or two of one number."""
    found: dict[int, Path] = {}
    for path in paths:
        digits = re.search(r"(\d+)$", path.stem)
        if digits is None:
            raise TrocarError(f"{path}: no number at the end of its name, so it cannot be told which second it shows")
        twin = found.setdefault(int(digits[1]), path)
        if twin != path:
            raise TrocarError(f"{path} and {twin.name} have the same number; keep one of them")
    return found


def first_number(numbers: Collection[int]) -> int:
    """The number of the image of second 0: an image 0 says that they count from 0, else they count from 1."""
    return 0 if 0 in numbers else 1


def refuse_dense(last_image_s: int, last_label_s: int, where: str) -> None:
    """Raises TrocarError where images that should be one a second go on for far longer than the labels.

    Both are seconds from 0 and count up to the last one, that included.
    """
    images, labels = last_image_s + 1, last_label_s + 1
    if images >= MOST * labels and images > labels + FEW:
        raise TrocarError(
            f"{where}: {images} images for {labels} labelled seconds, {images / labels:.3g} to a second; they are "
            "taken to be one a second, so each would get the label of another one: keep one image for each second, or "
            "complete the labels if their file is cut off"
        )


def refuse_shifted(images: Collection[int], labels: Collection[int], where: str) -> None:
    """Raises TrocarError where images that should have the numbers of their labels are all one ahead: the label of the
    first has no image, and there is one behind the last.
    """
    first, last = min(labels), max(labels)
    if first not in images and first + 1 in images and last + 1 in images:
        raise TrocarError(
            f"{where}: the labels go from {first} to {last}, the images from {min(images)} to {max(images)}: they seem "
            f"to count from 1. Rename them to count from 0, so that image {first + 1} becomes image {first}"
        )


FEWEST, SLOWEST = 5, 2.0
"""Rows below which, and frames per second below which, seconds cannot be told from frames."""
NEAR = 0.1
"""Of its length in seconds: how near to the end of the video rows that count seconds end."""


def refuse_seconds(frames: pd.Series, end_s: float, rate: float, path: Path) -> None:
    """Raises TrocarError where native frame indices of a label file look like seconds.

    That is: they go up one by one, and end about where the pictures do, in seconds. `end_s`: seconds that the pictures
    last, `rate`: their native frames per second.
    """
    numbers = np.sort(frames.to_numpy(np.int64))
    if len(numbers) < FEWEST or rate < SLOWEST or np.median(np.diff(numbers)) != 1:
        return
    if abs(int(numbers[-1]) + 1 - end_s) > max(1.5, NEAR * end_s):
        return
    raise TrocarError(
        f"{path}: {len(numbers)} rows, Frame {numbers[0]} to {numbers[-1]} one by one, for {end_s:.0f} s of pictures "
        f"at {rate:g} frames per second: these are seconds, where frames of the video are expected. Multiply Frame by "
        f"{rate:g} (and keep one image a second, if the pictures are images and there is one for every frame)"
    )


def unlabelled_end(last_s: float, end_s: float, video: str) -> list[str]:
    """A note where more than a tenth of the pictures comes after the last label: the label file may be cut off."""
    if last_s + 2 >= 0.9 * end_s:
        return []
    return [f"{video}: its labels end at {last_s:.0f} s, its pictures at {end_s:.0f} s"]


def refuse_numbers_of_seconds(frames: pd.Series, times: pd.Series, rate: float, where: str) -> None:
    """Raises TrocarError where numbers of frames are those of their seconds, in a video of more than one a second."""
    numbers, seconds = frames.to_numpy(np.int64), times.to_numpy(np.float64)
    if len(numbers) >= FEWEST and rate >= SLOWEST and (numbers == np.round(seconds)).all():
        raise TrocarError(
            f"{where}: column frame has the numbers of column time_s, but the video has {rate:g} frames per second: "
            f"frame is the number of a native frame, {round(rate * float(seconds.max()))} at {seconds.max():g} s"
        )


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
