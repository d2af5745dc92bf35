"""Which frames of a run turned out bad, in a file that its ranks share and a resume reads first."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from trocar.data.catalog.catalog import Catalog

BAD_ROWS = "bad_rows.jsonl"


def bad_rows(run: Path, catalog: Catalog) -> frozenset[int]:
    """Catalog rows that earlier attempts found bad; torn lines are ignored.

    The file names video and row within it, because a catalog that has grown numbers its rows anew.
    """
    try:
        lines = (run / BAD_ROWS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    rows: set[int] = set()
    for line in filter(None, lines):
        with suppress(ValueError, KeyError, TypeError):
            place = json.loads(line)
            row = catalog.row_at(place["video"], place["row"])
            if row is not None:
                rows.add(row)
    return frozenset(rows)
