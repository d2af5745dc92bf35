"""A nearest-neighbour index of a catalog: for every frame its k nearest frames of other cases.

ROOT/catalog/neighbours/NAME/index.json               what it was made of and from; written last
ROOT/catalog/neighbours/NAME/neighbours-HASH.arrow    Arrow IPC file, one uncompressed record batch, memory-mapped
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trocar.core.files import replacing, sha256_of, write_json_atomic
from trocar.core.random import I64
from trocar.data.catalog.catalog import FOLDER, Catalog, inside, view_of
from trocar.errors import ConfigError, TrocarError, nearest

FORMAT_VERSION = 1
HEADER = "index.json"

F32 = npt.NDArray[np.float32]


class NeighbourTable:
    """An opened index. Pickles as its place, as the catalog does.

    Attributes:
        about: what `index.json` says.
        fingerprint: 16 hex digits over the table's content.
        rows: int64[n, k] catalog rows for each of the n rows of the catalog, nearest first; -1 for none.
        distances: float32[n, k] Euclidean distances of L2-normalised features (0..2).
        reference: float32[n] distance to the frame before it in the same video, NaN where there is none.
    """

    def __init__(self, catalog: Catalog, name: str, about: Mapping[str, Any], batch: pa.RecordBatch) -> None:
        self._place = (catalog, name)
        self.about = about
        self.fingerprint = str(about["sha256"])[:16]
        n = batch.num_rows
        self.rows: I64 = view_of(batch.column("rows").values).reshape(n, -1)
        self.distances: F32 = view_of(batch.column("distances").values).reshape(n, -1)
        self.reference: F32 = view_of(batch.column("reference"))

    @classmethod
    def open(cls, catalog: Catalog, name: str) -> NeighbourTable:
        """Open the index `name` of a catalog.

        Raises ConfigError where there is none, or one of another catalog or format, TrocarError for broken files.
        """
        folder = index_folder(catalog, name)
        again = f"build it again with `trocar neighbours {catalog.root} --name {name} --backbone ...`"
        about = _header(catalog, name, again)
        if about["version"] != FORMAT_VERSION:
            raise ConfigError(f"{folder}: index format {about['version']}, not {FORMAT_VERSION}; {again}")
        if about["catalog"] != catalog.fingerprint or about["videos"] != order_of_videos(catalog):
            raise ConfigError(f"{folder}: the catalog has changed since this index was made; {again}")
        path = inside(folder, about["file"])
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches, schema = reader.num_record_batches, reader.schema
        except (OSError, pa.ArrowInvalid) as error:
            raise TrocarError(f"{path}: not an Arrow file ({error}); {again}") from None
        if path.stat().st_size != about["bytes"] or batches != 1 or not schema.equals(_schema(about["k"])):
            raise TrocarError(f"{path}: not the table that {HEADER} names; {again}")
        batch = reader.get_batch(0)
        if batch.num_rows != len(catalog):
            raise TrocarError(f"{path}: {batch.num_rows} rows for {len(catalog)} frames; {again}")
        return cls(catalog, name, about, batch)

    def __reduce__(self) -> tuple[Any, ...]:
        return (NeighbourTable.open, self._place)

    def near(self, row: int, factor: float) -> I64:
        """int64[m <= k]: the neighbours of a row that are nearer than `factor` times its reference distance."""
        rows: I64 = self.rows[row]
        # Nothing is below NaN: a frame without a frame before it has no measure of what is near.
        kept: I64 = rows[(rows >= 0) & (self.distances[row] < factor * self.reference[row])]
        return kept


def write_table(
    catalog: Catalog, name: str, rows: I64, distances: F32, reference: F32, about: Mapping[str, Any]
) -> Path:
    """Write the index `name` (see `NeighbourTable` for the arrays) and return its folder.

    `about` is added to `index.json`. An index of that name is replaced in one step.
    """
    folder = index_folder(catalog, name)
    folder.mkdir(parents=True, exist_ok=True)
    k = rows.shape[1]
    columns = [_column(rows, pa.int64()), _column(distances, pa.float32()), pa.array(reference, pa.float32())]
    batch = pa.RecordBatch.from_arrays(columns, schema=_schema(k))
    draft = folder / "neighbours.arrow"
    with replacing(draft) as path, pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    digest = sha256_of(draft)
    # A name of its own: the table in use is whole until index.json names the new one.
    path = draft.replace(folder / f"neighbours-{digest[:16]}.arrow")
    own = {
        "version": FORMAT_VERSION,
        "catalog": catalog.fingerprint,
        "videos": order_of_videos(catalog),
        "k": k,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest,
    }
    write_json_atomic(folder / HEADER, {**about, **own})
    for old in folder.glob("neighbours-*.arrow"):
        if old != path:
            old.unlink()
    return folder


def index_folder(catalog: Catalog, name: str) -> Path:
    """Where the index `name` lies. Raises ConfigError for a name that is no plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"index name {name!r}: expected letters, digits, '.', '_' and '-'")
    return catalog.root / FOLDER / "neighbours" / name


def index_names(catalog: Catalog) -> list[str]:
    """Names of the indexes that a catalog has, sorted."""
    return sorted(path.parent.name for path in (catalog.root / FOLDER / "neighbours").glob(f"*/{HEADER}"))


def order_of_videos(catalog: Catalog) -> str:
    """16 hex digits over which video lies where and is of which case; the catalog's own fingerprint knows no order."""
    digest = hashlib.sha256()
    for row in catalog.videos.select(["name", "source", "case_id", "first_row", "rows"]).to_pylist():
        digest.update(json.dumps(list(row.values())).encode())
    return digest.hexdigest()[:16]


def _header(catalog: Catalog, name: str, again: str) -> dict[str, Any]:
    path = index_folder(catalog, name) / HEADER
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"version", "catalog", "videos", "k", "file", "bytes", "sha256"} <= about.keys():
            raise ValueError("entries are missing")
    except FileNotFoundError:
        names = index_names(catalog)
        raise ConfigError(
            f"{catalog.root} has no neighbour index {name!r}{nearest(name, names)}; it has: "
            f"{', '.join(names) or 'none'}. `trocar neighbours` makes one"
        ) from None
    except (OSError, ValueError, AttributeError) as error:
        raise TrocarError(f"{path}: cannot be read ({error}); {again}") from None
    return about


def _schema(k: int) -> pa.Schema:
    return pa.schema(
        [("rows", pa.list_(pa.int64(), k)), ("distances", pa.list_(pa.float32(), k)), ("reference", pa.float32())]
    )


def _column(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
