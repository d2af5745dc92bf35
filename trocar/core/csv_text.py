"""CSV files as columns of text: encodings, separators, quotes, and rows of another length than the header.

`trocar.core.tables` is what callers use; it makes ids, numbers and flags of these columns.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

_MARKS = {",": "commas", "\t": "tabs", " ": "single spaces", ";": "semicolons", "|": "bars"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BLANKS = (b" ", b"\t", b"\v", b"\f", b"\xc2\xa0", b'"')  # a quoted cell may end in a line break
_PART = 50_000  # rows that are Python's strings at one time


@dataclass(frozen=True)
class CsvText:
    """`columns`: name -> text without the blanks around it, '' where a cell is empty. `rows`: int64 [n], the number
    of each row, from 1 below the header; rows without a single value are left out and counted.
    """

    columns: dict[str, pa.ChunkedArray]
    rows: npt.NDArray[np.int64]


def parse(data: bytes, separator: str, header: bool) -> CsvText:
    """The columns of a file. Without a header they are called `column 1` and so on.

    Raises ValueError, with words that follow on a file's name, for text that is not UTF-8, for another separator, for
    two columns of one name, and for a row that is cut off, too long or too short.
    """
    text = decoded(data)
    body = text.encode()
    line = body.partition(b"\n")[0]
    # A name may hold a line break, inside of quotes.
    first = next(_records(text if b'"' in line else line.decode(), separator), (1, []))[1]
    names = [name.strip() for name in first] if header else [f"column {place + 1}" for place in range(len(first))]
    _check_names(names, separator, header)
    simple = not _has_blank_lines(body) and _has_simple_quotes(body, separator) and not line.count(b'"') % 2
    columns = _simple(body, names, separator, header) if simple else None
    if columns is None:
        return _without_blank_rows(*_careful(text, names, separator, header), names)
    return _without_blank_rows(columns, np.arange(1, len(columns[0]) + 1, dtype=np.int64), names)


def decoded(data: bytes) -> str:
    r"""The text of a file in UTF-8, with or without a byte order mark, its lines ended by `\n`.

    Raises ValueError, with words that follow on a file's name, for other encodings and for what is no text.
    """
    start = data[:100]
    if start.startswith(_UTF16) or (len(start) > 3 and (not any(start[1::2]) or not any(start[::2]))):
        raise ValueError("is encoded as UTF-16; save it as UTF-8 (in Excel: `CSV UTF-8 (Comma delimited)`)")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise ValueError(f"line {line}: holds a NUL byte, so it is damaged or no text; write the file again")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        raise ValueError(
            f"line {line}: byte 0x{byte:02x} is not UTF-8 but an encoding of Windows or an older system; save the "
            "file as UTF-8 (in Excel: `CSV UTF-8 (Comma delimited)`)"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_names(names: Sequence[str], separator: str, header: bool) -> None:
    if not any(names):
        raise ValueError("is empty, or its first line is" + ("; the first line names the columns" if header else ""))
    other = next((mark for mark in (";", "\t", "|", ",") if mark != separator and mark in names[0]), None)
    if header and len(names) == 1 and other is not None:
        kind = "a CSV file with commas" if separator == "," else f"a text file with {_MARKS[separator]}"
        raise ValueError(f"its columns are separated by {other!r}; write {kind}")
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns are called {twice!r}; rename one")


def _has_blank_lines(body: bytes) -> bool:
    return b"\n\n" in body.rstrip(b"\n") or body.startswith(b"\n")


def _has_simple_quotes(body: bytes, separator: str) -> bool:
    """Whether there are no quotes, or each one opens or closes a whole cell, in turn. Arrow's parser reads these alone
    without accepting what is no CSV.
    """
    if b'"' not in body:
        return True
    text = np.frombuffer(body, dtype=np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    ends = (ord(separator), ord("\n"))
    opens, closes = quotes[::2], quotes[1::2]
    if len(opens) != len(closes):
        return False
    before, behind = text[opens[opens > 0] - 1], text[closes[closes < len(text) - 1] + 1]
    return bool(np.isin(before, ends).all() and np.isin(behind, ends).all())


def _simple(body: bytes, names: Sequence[str], separator: str, header: bool) -> list[pa.ChunkedArray] | None:
    """Columns of text with simple quotes; None where a row is not as long as others, which `_careful` explains."""
    places = [str(index) for index in range(len(names))]
    lines = body.partition(b"\n")[2] if header else body
    if not lines or lines.isspace():
        return [pa.chunked_array([], pa.string()) for _ in names]
    try:
        # One thread: the processes of a loader or an ingest read tables too, and may be forks.
        table = pyarrow.csv.read_csv(
            pa.BufferReader(lines),
            pyarrow.csv.ReadOptions(use_threads=False, column_names=places, block_size=1 << 24),
            pyarrow.csv.ParseOptions(delimiter=separator, double_quote=False, newlines_in_values=b'"' in lines),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(places, pa.string()), check_utf8=False),
        )
    except pa.ArrowInvalid:
        return None
    if any(blank in lines for blank in _BLANKS if blank != separator.encode()):
        return [pc.utf8_trim_whitespace(column) for column in table.columns]
    return list(table.columns)


def _careful(
    text: str, names: Sequence[str], separator: str, header: bool
) -> tuple[list[pa.ChunkedArray], npt.NDArray[np.int64]]:
    """Columns of any text, and the numbers of their rows. Raises ValueError naming the row that is wrong."""
    chunks: list[list[pa.Array]] = [[] for _ in names]
    rows: list[int] = []
    part: list[list[str]] = []

    def close() -> None:
        for chunk, values in zip(chunks, zip(*part, strict=True), strict=True):
            chunk.append(pc.utf8_trim_whitespace(pa.array(values, pa.string())))
        part.clear()

    records = _records(text, separator)
    for number, cells in records:
        row = number - header
        if row < 1 or not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            end = "; is the file cut off?" if len(cells) < len(names) and next(records, None) is None else ""
            raise ValueError(f"row {row}: {_counted(len(cells))}, but {_counted(len(names))} in the first line{end}")
        rows.append(row)
        part.append(cells)
        if len(part) == _PART:
            close()
    if part:
        close()
    return [pa.chunked_array(chunk, pa.string()) for chunk in chunks], np.array(rows, dtype=np.int64)


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the record from 1, its cells). Raises ValueError for a quote that is not closed."""
    lines = io.StringIO(text, newline="\n")
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=separator != " ", strict=True)
    for number in itertools.count(1):
        begun = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"line {begun}: a quote is not closed, or stands inside of a value ({error})") from None
        yield number, cells


def _counted(cells: int) -> str:
    return f"{cells} cell" + ("" if cells == 1 else "s")


def _without_blank_rows(columns: list[pa.ChunkedArray], rows: npt.NDArray[np.int64], names: Sequence[str]) -> CsvText:
    named = {name: column for name, column in zip(names, columns, strict=True) if name}
    filled = np.zeros(len(rows), dtype=bool)
    for column in named.values():
        filled |= pc.not_equal(column, "").to_numpy()
        if filled.all():
            return CsvText(named, rows)
    return CsvText({name: column.filter(pa.array(filled)) for name, column in named.items()}, rows[filled])
