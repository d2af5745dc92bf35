"""Which rows curation leaves out, read from the verdicts a row group at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trocar.data.catalog.catalog import FOLDER, Catalog, fails, to_numpy
from trocar.errors import TrocarError

Mask = npt.NDArray[np.bool_]


class LeftOut:
    """Rows that fail `limits` (as `catalog.DEFAULT_CURATION`), for ranges of rows; a context manager.

    Holds one row group at a time (a million rows in the catalogs that `trocar ingest` writes), so ranges in ascending
    order decode each group once, and groups that no range touches never.
    """

    def __init__(self, catalog: Catalog, limits: Mapping[str, bool | float]) -> None:
        self.limits = limits
        self.path: Path = catalog.root / FOLDER / "quality.parquet"
        try:
            self._file = pq.ParquetFile(self.path)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreadable(error) from None
        meta = self._file.metadata
        self._ends = np.cumsum([meta.row_group(g).num_rows for g in range(meta.num_row_groups)])
        total = int(self._ends[-1]) if self._ends.size else 0
        if total != len(catalog) or not set(limits) <= set(self._file.schema_arrow.names):
            raise self._unreadable(f"{total} rows of {', '.join(self._file.schema_arrow.names)}")
        self._held = (-1, np.zeros(0, dtype=bool))

    def __enter__(self) -> LeftOut:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def rows(self, start: int, stop: int) -> Mask:
        """bool[stop - start]: whether each of the rows start..stop-1 is left out."""
        out = np.zeros(stop - start, dtype=bool)
        if not self.limits:
            return out
        group = int(np.searchsorted(self._ends, start, side="right"))
        at = start
        while at < stop:
            end = int(self._ends[group])
            first = int(self._ends[group - 1]) if group else 0
            upto = min(stop, end)
            out[at - start : upto - start] = self._group(group)[at - first : upto - first]
            at, group = upto, group + 1
        return out

    def _group(self, index: int) -> Mask:
        if self._held[0] != index:
            try:
                table = self._file.read_row_group(index, columns=list(self.limits), use_threads=False)
            except (OSError, pa.ArrowInvalid) as error:
                raise self._unreadable(error) from None
            out = np.zeros(table.num_rows, dtype=bool)
            for name, limit in self.limits.items():
                out |= fails(to_numpy(table[name]), limit)
            self._held = (index, out)
        return self._held[1]

    def _unreadable(self, reason: object) -> TrocarError:
        return TrocarError(f"{self.path}: not the verdicts of this catalog ({reason}); run `trocar ingest` again")
