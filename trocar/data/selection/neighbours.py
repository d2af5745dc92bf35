"""Which other frames belong to an anchor: nearby in time, or of other cases and alike.

Augmented distillation as LemonFM does it (Che et al., arXiv 2503.19740, and its code): of four candidates, those of a
nearest-neighbour index first and frames seconds away from the anchor in the places left, some are drawn. Here the draw
is a pure function of (seed, step, slot, anchor as delivered).

The index has for every frame of a catalog its k nearest frames of other cases:

ROOT/catalog/neighbours/NAME/index.json               what it was made of and from; written last
ROOT/catalog/neighbours/NAME/neighbours-HASH.arrow    Arrow IPC file, one uncompressed record batch, memory-mapped
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from trocar.core.config import Config
from trocar.core.files import replacing, sha256_of, write_json_atomic
from trocar.core.random import I64, below, make_key, words
from trocar.data.catalog.catalog import FOLDER, Catalog, inside, to_numpy, view_of
from trocar.data.remote.store import MissingError
from trocar.data.selection.selection import Selection
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
        again = f"build it again with `trocar neighbours {catalog.location} --name {name} --backbone ...`"
        about = _header(catalog, name, again)
        if about["version"] != FORMAT_VERSION:
            raise ConfigError(f"{folder}: index format {about['version']}, not {FORMAT_VERSION}; {again}")
        if about["catalog"] != catalog.fingerprint or about["videos"] != order_of_videos(catalog):
            raise ConfigError(f"{folder}: the catalog has changed since this index was made; {again}")
        path = inside(folder, about["file"])
        if catalog.store is not None and not path.is_file():
            catalog.store.fetch(path.relative_to(catalog.root).as_posix(), path)
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
    if catalog.store is not None:
        with suppress(MissingError):  # then it may have been made on this machine
            catalog.store.fetch(path.relative_to(catalog.root).as_posix(), path)
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"version", "catalog", "videos", "k", "file", "bytes", "sha256"} <= about.keys():
            raise ValueError("entries are missing")
    except FileNotFoundError:
        names = index_names(catalog)
        raise ConfigError(
            f"{catalog.location} has no neighbour index {name!r}{nearest(name, names)}; it has: "
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


TIME_ROUNDING_S = 1e-3
"""What float32 may add to the distance of two times, in seconds, up to four hours into a video."""


class NeighbourSource(Config):
    """Where the neighbour frames of a sample come from."""

    source: Literal["temporal", "knn"] = Field(
        default="temporal",
        description="temporal: frames of the same video at `offsets_s`; knn: frames alike by a neighbour index",
    )
    offsets_s: tuple[float, ...] = Field(default=(-2, -1, 1, 2), description="seconds from the anchor")
    index: str | None = Field(default=None, description="with knn: a name given to `trocar neighbours`")
    factor: float = Field(
        default=3.0,
        gt=0,
        description="with knn: neighbours are nearer than this times the anchor's distance to the frame before it",
    )
    candidates: int = Field(default=4, ge=1, description="with knn: how many to draw from, filled up by time")

    @model_validator(mode="after")
    def _consistent(self) -> NeighbourSource:
        offsets = self.offsets_s
        if not offsets or len(set(offsets)) < len(offsets) or not all(o and math.isfinite(o) for o in offsets):
            raise ValueError("offsets_s: expected different numbers of seconds, none of them 0")
        if (self.source == "knn") != (self.index is not None):
            raise ValueError("index: goes with source: knn, which needs one")
        return self


@dataclass(frozen=True)
class NeighbourRule:
    """The neighbours of a run: `table` for knn, `videos` bool[catalog's videos] which are in its selection, `without`
    int64[m] catalog rows of them that are copies of held-out pictures.
    """

    config: NeighbourSource
    catalog: Catalog
    videos: npt.NDArray[np.bool_]
    seed: int
    table: NeighbourTable | None = None
    without: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def identity(self) -> dict[str, Any]:
        """What determines the neighbours besides the data and the seed, for comparing two attempts of a run."""
        used = {"source", "offsets_s"} | ({"index", "factor", "candidates"} if self.table else set())
        identity = self.config.model_dump(mode="json", include=used)
        return identity | ({"index_fingerprint": self.table.fingerprint} if self.table else {})

    def draw(self, step: int, slots: I64, anchors: I64, count: int) -> I64:
        """int64[b, count] rows for anchors int64[b] of the slots int64[b], in the order of frames 1, 2, ...

        Candidates are drawn without replacement. If there are fewer than `count`, they come round again in the same
        order; an anchor without any is its own neighbour.
        """
        bits = words(make_key(self.seed, "neighbours"), count, step, slots)
        out = np.empty((len(slots), count), np.int64)
        for index, anchor in enumerate(anchors.tolist()):
            pool = self.candidates(anchor)
            m = len(pool)
            for i in range(min(count, m)):  # Fisher and Yates
                j = i + int(below(bits[index, i], m - i))
                pool[i], pool[j] = pool[j], pool[i]
            out[index] = [pool[i % m] if m else anchor for i in range(count)]
        return out

    def candidates(self, row: int) -> list[int]:
        """The different rows that a neighbour of `row` is drawn from, without `row` itself."""
        kept = [one for one in self._near(row) if one not in self._copies]
        pool = dict.fromkeys(kept[: self.config.candidates] + self._temporal(row))
        for copy in self._copies & pool.keys():
            del pool[copy]
        return list(pool) if self.table is None else list(pool)[: self.config.candidates]

    def _near(self, row: int) -> list[int]:
        """Rows of the index within the distance rule, nearest first; left-out videos do not come in by this door."""
        if self.table is None:
            return []
        rows = self.table.near(row, self.config.factor)
        found: list[int] = rows[self.videos[self.catalog.frames["video"][rows]]].tolist()
        return found

    def _temporal(self, row: int) -> list[int]:
        """For each offset the nearest frame of the same video, unless it is more than half a frame interval away;
        nothing for an isolated picture.

        Any ingested frame that is no copy of a held-out picture will do, whatever curation or a lower frame rate of the
        composition says.
        """
        first, count, fps = self._extents
        video = int(self.catalog.frames["video"][row])
        if self.catalog.is_still[video]:
            return []
        start = int(first[video])
        times = self.catalog.frames["time_s"][start : start + int(count[video])]
        reach = 0.5 / float(fps[video]) + TIME_ROUNDING_S
        found = (_nearest(times, row - start, offset, reach) for offset in self.config.offsets_s)
        return [start + at for at in dict.fromkeys(found) if at is not None]

    @cached_property
    def _copies(self) -> frozenset[int]:
        return frozenset(self.without.tolist())

    @cached_property
    def _extents(self) -> tuple[I64, I64, npt.NDArray[np.float64]]:
        first, count, fps = (to_numpy(self.catalog.videos[name]) for name in ("first_row", "rows", "fps"))
        return first, count, fps


def resolve_neighbours(
    config: NeighbourSource | None, catalog: Catalog, selection: Selection, seed: int
) -> NeighbourRule | None:
    """The rule for a run on `selection`, None without a configuration.

    Raises ConfigError for an index that isn't there or is of other frames, for videos with so few frames per second
    that no offset reaches another one, and for isolated pictures: they have no neighbours in time, and none by an index
    either, whose distances are measured against the frame before.
    """
    if config is None:
        return None
    videos = _videos(catalog, selection)
    _check_reach(config, catalog, videos)
    table = None if config.index is None else NeighbourTable.open(catalog, config.index)
    return NeighbourRule(config, catalog, videos, seed, table, selection.excluded.rows)


def _nearest(times: npt.NDArray[np.float32], at: int, offset: float, reach: float) -> int | None:
    """Index of the frame nearest to times[at] + offset (the earlier of two), on that side of `at`; None too far."""
    target = float(times[at]) + offset
    after = int(np.searchsorted(times, np.float32(target)))
    sides = [i for i in (after - 1, after) if (at < i < len(times) if offset > 0 else 0 <= i < at)]
    best = min(sides, key=lambda i: abs(float(times[i]) - target), default=None)
    return best if best is not None and abs(float(times[best]) - target) <= reach else None


def _videos(catalog: Catalog, selection: Selection) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(catalog.videos.num_rows, bool)
    for pool in selection.pools:
        # A run of rows never leaves its video.
        chosen[catalog.frames["video"][pool.runs.start]] = True
    return chosen


def _check_reach(config: NeighbourSource, catalog: Catalog, videos: npt.NDArray[np.bool_]) -> None:
    if stills := int(np.count_nonzero(videos & catalog.is_still)):
        of = int(np.count_nonzero(videos))
        raise ConfigError(
            f"neighbours: {stills} of the {of} selected videos are isolated pictures (stills), which have none; "
            "exclude their sources from the composition, or take a method without neighbours"
        )
    fps = to_numpy(catalog.videos["fps"])
    furthest = max(map(abs, config.offsets_s))
    lame = np.flatnonzero(videos & (2 * fps * (furthest + TIME_ROUNDING_S) < 1))
    if lame.size:
        name = catalog.videos["name"][int(lame[0])].as_py()
        raise ConfigError(
            f"neighbours.offsets_s: {furthest:g} s never reach another frame of {lame.size} of the videos, such as "
            f"{name!r} with {fps[lame[0]]:g} frames per second; give offsets of about {1 / fps[lame].min():g} s"
        )
