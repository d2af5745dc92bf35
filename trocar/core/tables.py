"""Tables that people deliver, CSV and Parquet: every cell is text first, and becomes what the caller asks for.

Ids stay as they are written: `001` is not `1`. Only an empty cell is empty: `NA`, `None`, `null` and `nan` are words.
Blanks around a cell are cut off. Numbers have a decimal point whatever the locale; Parquet has the types it was
stored with, and null is an empty cell.

Errors name file, row, column and value. Rows count from 1 below the header, as in `row 2: no case`: what a
spreadsheet shows in its line 3. In a table without a header row 1 is its first line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trocar.core.csv_text import decoded, parse
from trocar.errors import TrocarError, nearest

if TYPE_CHECKING:
    import pandas as pd  # which whoever reads a small table does not wait for

Texts = npt.NDArray[np.object_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_MOST = 2**53 - 1  # above it float64 no longer holds every integer
_FLAGS = {"true": 1, "yes": 1, "y": 1, "1": 1, "1.0": 1, "false": 0, "no": 0, "n": 0, "0": 0, "0.0": 0}


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a file, typed column by column by whoever reads them.

    `rows`: int64 [n], their numbers in the file, since rows without a value are left out. Errors are of the class
    `failure`. All methods below raise it: for a column that is not there, and for a cell that is not what was asked
    for. `metadata`: what Parquet says beside the rows.
    """

    path: Path
    rows: Ints
    _cells: Mapping[str, pa.ChunkedArray]
    failure: type[TrocarError] = TrocarError
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: object) -> bool:
        return name in self._cells

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in the order of the file; one without a name is none of them."""
        return tuple(self._cells)

    def error(self, what: str, index: int | None = None) -> TrocarError:
        """An error about the file, or about the row at `index` (its place in this table, from 0)."""
        row = "" if index is None else f"row {self.rows[index]}: "
        return self.failure(f"{self.path}: {row}{what}")

    def need(self, *names: str) -> None:
        """Check that these columns are there."""
        for name in names:
            if name not in self._cells:
                hint = nearest(name, self.names)
                raise self.error(f"no column {name!r}{hint}; found {', '.join(self.names)}")

    def filled(self, name: str) -> Bools:
        """Which cells of the column are not empty, bool [n]."""
        return ~self._empty(name)

    def ids(self, name: str) -> Texts:
        """Text [n], exactly as written, in every row; the decimal digits of a Parquet column of integers."""
        empty = self._empty(name)
        if empty.any():
            raise self.error(f"no {name}{_and_more(empty)}", int(empty.argmax()))
        return self.texts(name)

    def texts(self, name: str, *, floats: bool = False) -> Texts:
        """Text [n], exactly as written, '' where the cell is empty; integers of Parquet as decimal digits, and `floats`
        where it does not matter how they are written.
        """
        found: Texts = self._text(name, floats).to_numpy(zero_copy_only=False)
        return found

    def numbers(self, name: str, low: float = -np.inf, high: float = np.inf, *, gaps: bool = False) -> Floats:
        """float64 [n], finite, from `low` to `high`. `gaps`: an empty cell is NaN; without it an error."""
        empty = self._gaps(name, gaps)
        values = self._parsed(name, empty, "a number")
        wrong = ~empty & ((values < low) | (values > high))
        if wrong.any():
            raise self._unfit(name, wrong, f"expected a number {_between(low, high)}")
        return values

    def whole(self, name: str, low: int | None = None, high: int | None = None, *, gap: int | None = None) -> Ints:
        """int64 [n], from `low` to `high`; `2.5e+01` and `25.0` are 25. `gap`: stands for an empty cell; without it
        that is an error.
        """
        lowest, highest = (-_MOST if low is None else low), (_MOST if high is None else high)
        empty = self._gaps(name, gap is not None)
        values = self._parsed(name, empty, "a whole number")
        wrong = ~empty & ((values != np.round(values)) | (values < lowest) | (values > highest))
        if wrong.any():
            within = f" {_between(lowest, highest)}" if low is not None or high is not None else ""
            raise self._unfit(name, wrong, f"expected a whole number{within}")
        return np.where(empty, 0 if gap is None else gap, values).astype(np.int64)

    def flags(self, name: str, *, gaps: bool = False) -> Ints:
        """int64 [n]: 1 for 1, true, yes and y, 0 for 0, false, no and n. `gaps`: -1 for an empty cell."""
        empty = self._gaps(name, gaps)
        known = {text: _FLAGS.get(text.lower()) for text in set(self._text(name, floats=True).to_pylist())}
        return self._looked_up(name, {**known, "": -1} if empty.any() else known, "expected 0 or 1", floats=True)

    def choices(self, name: str, allowed: Sequence[str], *, gaps: bool = False) -> Texts:
        """Text [n], one of `allowed`. `gaps`: '' for an empty cell."""
        self._gaps(name, gaps)
        found = self.texts(name)
        for text, index in self.first_rows(name).items():
            if text and text not in allowed:
                hint = nearest(text, allowed)
                raise self.error(f"{name} {text!r}: expected {', '.join(allowed)}{hint}", index)
        return found

    def codes(self, name: str, code_of: Callable[[str], int], *, gap: int | None = None) -> Ints:
        """int64 [n], `code_of` every text; `gap`: stands for an empty cell. An error that it raises is told with the
        row at which the text stands first.
        """
        self._gaps(name, gap is not None)
        codes: dict[str, int | None] = {}
        for text, index in self.first_rows(name).items():
            try:
                codes[text] = gap if text == "" else code_of(text)
            except TrocarError as error:
                raise self.error(f"{name}: {error}", index) from None
        return self._looked_up(name, codes, "")

    def first_rows(self, name: str) -> dict[str, int]:
        """Every different text of the column ('' of empty cells too) -> the place where it stands first, in order."""
        encoded = self._text(name).dictionary_encode().combine_chunks()
        places = encoded.indices.to_numpy(zero_copy_only=False)
        first = np.unique(places, return_index=True)[1]
        return dict(zip(encoded.dictionary.to_pylist(), map(int, first), strict=True))

    def once(self, *names: str) -> None:
        """Check that no two rows agree in all these columns of text."""
        keys = pc.binary_join_element_wise(*(self._text(name) for name in names), "\x1f")
        if pc.count_distinct(keys).as_py() == len(self):
            return
        seen: dict[str, int] = {}
        for index, key in enumerate(keys.to_pylist()):
            if key in seen:
                what = ", ".join(f"{name} {self._text(name)[index].as_py()!r}" for name in names)
                raise self.error(f"{what} is there twice (also in row {self.rows[seen[key]]})", index)
            seen[key] = index

    def stored(self, name: str) -> pa.ChunkedArray:
        """The column as it is in the file: text of CSV, any type of Parquet."""
        self.need(name)
        return self._cells[name]

    def _text(self, name: str, floats: bool = False) -> pa.ChunkedArray:
        column = self.stored(name)
        kind = column.type
        if pa.types.is_floating(kind) and not floats:
            raise self.error(f"column {name!r} holds floating point numbers; store it as text")
        if not _is_text(kind) and not (_is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise self.error(f"column {name!r} holds {kind}, not text")
        text = column if kind == pa.string() else column.cast(pa.string())
        return pc.fill_null(text, "") if text.null_count else text

    def _empty(self, name: str) -> Bools:
        column = self.stored(name)
        empty = pc.equal(self._text(name), "") if _is_text(column.type) else column.is_null()
        found: Bools = empty.to_numpy().astype(bool)
        return found

    def _gaps(self, name: str, allowed: bool) -> Bools:
        """Which cells are empty; an error where they may not be."""
        empty = self._empty(name)
        if empty.any() and not allowed:
            raise self.error(f"{name} is empty{_and_more(empty)}", int(empty.argmax()))
        return empty

    def _parsed(self, name: str, empty: Bools, expected: str) -> Floats:
        """float64 [n], finite, NaN where empty."""
        column = self.stored(name)
        if _is_text(column.type):
            column = self._from_text(name, empty, expected)
        elif not (_is_number(column.type) or pa.types.is_boolean(column.type) or pa.types.is_null(column.type)):
            raise self.error(f"column {name!r} holds {column.type}, not numbers")
        elif pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        values: Floats = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
        wrong = ~empty & ~np.isfinite(values)
        if wrong.any():
            raise self._unfit(name, wrong, f"expected {expected}, finite")
        return values

    def _from_text(self, name: str, empty: Bools, expected: str) -> pa.ChunkedArray:
        """Text as float64, null where empty; rounded correctly."""
        text = self._text(name)
        if empty.any():
            text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        try:
            return text.cast(pa.float64())
        except pa.ArrowInvalid:
            fits = pc.fill_null(pc.match_substring_regex(text, _NUMBER), True).to_numpy().astype(bool)
            if not fits.all():
                raise self._unfit(name, ~fits, f"expected {expected}") from None
            return pc.utf8_ltrim(text, "+").cast(pa.float64())  # Arrow takes no plus sign

    def _looked_up(self, name: str, codes: Mapping[str, int | None], expected: str, floats: bool = False) -> Ints:
        encoded = self._text(name, floats).dictionary_encode().combine_chunks()
        table = [codes.get(text) for text in encoded.dictionary.to_pylist()]
        unknown = np.array([code is None for code in table], dtype=bool)
        places = encoded.indices.to_numpy(zero_copy_only=False)
        if unknown.any():
            raise self._unfit(name, unknown[places], expected)
        found: Ints = np.array(table, dtype=np.int64)[places]
        return found

    def _unfit(self, name: str, wrong: Bools, expected: str) -> TrocarError:
        index = int(wrong.argmax())
        value = self.stored(name)[index].as_py()
        point = "; numbers have a decimal point" if isinstance(value, str) and "," in value else ""
        return self.error(f"{name} {value!r}: {expected}{point}{_and_more(wrong)}", index)


def read_table(
    path: Path, *, separator: str = ",", header: bool = True, failure: type[TrocarError] = TrocarError
) -> Table:
    """A Parquet file by its first bytes or its ending, any other as text with `separator` between its columns.

    Raises `failure` for a file that cannot be read, is not UTF-8, has another separator, two columns of one name, or a
    row that is too long, too short or not closed. Without a `header` the columns are called `column 1` and so on.
    """
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        if parquet or path.suffix.lower() in (".parquet", ".pq"):
            return _read_parquet(path, failure)
        text = parse(path.read_bytes(), separator, header)
    except pa.ArrowException as error:
        raise failure(f"{path}: cannot be read as Parquet: {error}") from None
    except OSError as error:
        raise failure(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise failure(f"{path}: {error}") from None
    return Table(path, text.rows, text.columns, failure)


def read_lines(path: Path, *, failure: type[TrocarError] = TrocarError) -> list[str]:
    """The lines of a text file, without the blanks around them. Raises `failure` for one that is not UTF-8."""
    try:
        return [line.strip() for line in decoded(path.read_bytes()).split("\n")]
    except OSError as error:
        raise failure(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise failure(f"{path}: {error}") from None


def of_texts(path: Path, columns: Mapping[str, Sequence[str | None]], rows: Ints) -> Table:
    """A table of cells that were read otherwise, such as those of a workbook; None and '' are empty."""
    cells = {name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in columns.items()}
    return Table(path, rows, cells)


def of_frame(path: Path, frame: pd.DataFrame) -> Table:
    """A table of somebody's DataFrame, whose errors call it `path`; None and NaN are empty cells.

    Raises TrocarError for columns of one name, or of values of mixed types.
    """
    try:
        found = pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False)
        return _of_arrow(path, found, TrocarError)
    except (ValueError, pa.ArrowException) as error:
        raise TrocarError(f"{path}: {error}") from None


def is_number(text: str) -> bool:
    """Whether `numbers` would read this text."""
    return re.match(_NUMBER, text) is not None


def _read_parquet(path: Path, failure: type[TrocarError]) -> Table:
    from pyarrow.parquet import ParquetFile  # not `read_table`, which imports pandas

    with ParquetFile(path) as file:
        return _of_arrow(path, file.read(), failure)


def _of_arrow(path: Path, found: pa.Table, failure: type[TrocarError]) -> Table:
    """Raises ValueError for two columns of one name."""
    twice = next((name for name in found.column_names if found.column_names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns are called {twice!r}; rename one")
    columns = {name: _without_dictionary(found.column(name)) for name in found.column_names}
    rows = np.arange(1, found.num_rows + 1, dtype=np.int64)
    metadata = {key.decode(errors="replace"): value for key, value in (found.schema.metadata or {}).items()}
    return Table(path, rows, columns, failure, metadata)


def _without_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _between(low: float, high: float) -> str:
    if high in (np.inf, _MOST):
        return f"from {low:g}"
    return f"up to {high:g}" if low in (-np.inf, -_MOST) else f"from {low:g} to {high:g}"


def _and_more(wrong: Bools) -> str:
    more = int(np.sum(wrong)) - 1
    return f" (and {more} more row{'s' if more > 1 else ''})" if more else ""
