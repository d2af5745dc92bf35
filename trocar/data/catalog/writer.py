"""Write a catalog from finished videos. The result depends on the videos alone, never on their order."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trocar.core.files import fsync_file, fsync_folder
from trocar.data.catalog.catalog import (
    FOLDER,
    FORMAT_VERSION,
    FRAME_SCHEMA,
    QUALITY_SCHEMA,
    REJECTED_SCHEMA,
    SHARD_SCHEMA,
    VIDEO_SCHEMA,
    catalog_fingerprint,
    inside,
)
from trocar.errors import TrocarError


@dataclass(frozen=True)
class ShardFile:
    """A shard: path relative to the shards folder, size in bytes, sha256 (hex) of the whole tar file."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Rejected:
    """A file that could not be ingested; `reason` is a short fixed word, `detail` what was found."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class VideoEntry:
    """A finished video, or an isolated picture (of no `fps` and no duration: 0). `frames` follows FRAME_SCHEMA with
    `video` 0 and `shard` counting these `shards` from 0, in time order; pictures may have shards in common. `quality`
    follows QUALITY_SCHEMA, row-aligned. `crop` is (left, top,
    width, height) in source pixels, empty for the whole frame. `source_size` is (width, height) of the upright source
    pictures, empty where they differ; `masks` are the boxes that were blacked out, (left, top, width, height) one after
    another, `text` are such boxes in which text seems to be burned in. `damaged` counts damaged or missing frames of
    the source that were accepted, `notes` says what a user should know of how it was read.
    """

    name: str
    case_id: str
    part: int
    source: str
    fps: float
    duration_s: float
    content_hash: str
    shards: Sequence[ShardFile]
    frames: pa.Table
    quality: pa.Table
    hospital: str = ""
    procedure: str = ""
    robotic: bool | None = None
    splits: Sequence[str] = ()
    private: bool = False
    content: str = "full"
    crop: Sequence[int] = field(default_factory=tuple)
    source_size: Sequence[int] = field(default_factory=tuple)
    masks: Sequence[int] = field(default_factory=tuple)
    text: Sequence[int] = field(default_factory=tuple)
    damaged: int = 0
    notes: Sequence[str] = ()


class ContentHash:
    """sha256 over the sequence of (time, JPEG bytes) of a video: equal content, equal hash."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, time_s: float, jpeg: bytes) -> None:
        """One frame; `time_s` counts as stored, in float32."""
        self._digest.update(np.float32(time_s).tobytes() + len(jpeg).to_bytes(8, "little") + jpeg)

    def hexdigest(self) -> str:
        """Of all frames so far, 64 hex digits."""
        return self._digest.hexdigest()


def write_catalog(root: Path, videos: Iterable[VideoEntry], rejected: Iterable[Rejected] = ()) -> str:
    """Write ROOT/catalog for these videos, ordered by source, name and time; returns the fingerprint.

    Everything is written under temporary names and renamed, `catalog.json` last: a crash leaves no catalog
    or a whole one. Raises TrocarError for two videos of one name or frames that are not in time order.
    """
    ordered = sorted(videos, key=lambda video: (video.source, video.name))
    _check(ordered)
    tables = {
        "quality.parquet": _concat([v.quality for v in ordered], QUALITY_SCHEMA),
        "videos.parquet": _video_table(ordered),
        "shards.parquet": _rows([vars(shard) for shard in _shards(ordered)], SHARD_SCHEMA),
        "rejected.parquet": _rows(sorted((vars(r) for r in rejected), key=_by_path), REJECTED_SCHEMA),
    }
    return publish(root, _frame_table(ordered), tables)


def publish(root: Path, frames: pa.Table, tables: dict[str, pa.Table]) -> str:
    """Write the finished tables of a catalog (see `write_catalog`, which makes them) and its
    `catalog.json`.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*.tmp"):
        stale.unlink()
    sizes = {"frames.arrow": _write_frames(_temporary(folder, "frames.arrow"), frames)}
    for name, table in tables.items():
        pq.write_table(table, _temporary(folder, name), compression="zstd")
        fsync_file(_temporary(folder, name))
        sizes[name] = _temporary(folder, name).stat().st_size
    videos = tables["videos.parquet"]
    pairs = zip(videos["name"].to_pylist(), videos["content_hash"].to_pylist(), strict=True)
    header = {
        "version": FORMAT_VERSION,
        "fingerprint": catalog_fingerprint(pairs),
        "videos": videos.num_rows,
        "cases": len({tuple(row.values()) for row in videos.select(["source", "case_id"]).to_pylist()}),
        "frames": frames.num_rows,
        "rejected": tables["rejected.parquet"].num_rows,
        "files": dict(sorted(sizes.items())),
    }
    _temporary(folder, "catalog.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    fsync_file(_temporary(folder, "catalog.json"))
    (folder / "catalog.json").unlink(missing_ok=True)
    for name in (*sizes, "catalog.json"):
        _temporary(folder, name).replace(folder / name)
    fsync_folder(folder)
    return str(header["fingerprint"])


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.{os.getpid()}.tmp"


def _write_frames(path: Path, frames: pa.Table) -> int:
    # combine_chunks may leave several batches when a column is chunked; one batch is what makes mmap
    # columns whole.
    arrays = [column.combine_chunks() for column in frames.columns]
    batch = pa.RecordBatch.from_arrays(
        [a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in arrays], schema=FRAME_SCHEMA
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, FRAME_SCHEMA) as writer:
        writer.write_batch(batch)
    fsync_file(path)
    return path.stat().st_size


def _check(ordered: Sequence[VideoEntry]) -> None:
    names: set[str] = set()
    for video in ordered:
        if video.name in names:
            raise TrocarError(f"two videos are called {video.name!r}; names must be unique in a shards folder")
        names.add(video.name)
        for shard in video.shards:
            inside(Path(), shard.path)
        if video.frames.num_rows != video.quality.num_rows:
            raise TrocarError(f"{video.name}: {video.frames.num_rows} frames, {video.quality.num_rows} quality rows")
        if np.any(np.diff(video.frames["time_s"].to_numpy()) <= 0):
            raise TrocarError(f"{video.name}: frames are not in time order")


def _shards(ordered: Sequence[VideoEntry]) -> list[ShardFile]:
    """Every shard once, in the order in which videos need them."""
    return list({shard.path: shard for video in ordered for shard in video.shards}.values())


def _shard_numbers(ordered: Sequence[VideoEntry]) -> list[npt.NDArray[np.int32]]:
    """For each video the catalog's number of the shard of each of its frames."""
    number = {shard.path: index for index, shard in enumerate(_shards(ordered))}
    return [
        np.array([number[shard.path] for shard in video.shards], np.int32)[video.frames["shard"].to_numpy()]
        for video in ordered
    ]


def _frame_table(ordered: Sequence[VideoEntry]) -> pa.Table:
    if not ordered:
        return FRAME_SCHEMA.empty_table()
    joined = pa.concat_tables([video.frames.select(FRAME_SCHEMA.names) for video in ordered])
    rows = [video.frames.num_rows for video in ordered]
    columns = {name: joined[name] for name in FRAME_SCHEMA.names}
    columns["video"] = pa.array(np.repeat(np.arange(len(ordered), dtype=np.int32), rows))
    columns["shard"] = pa.array(np.concatenate(_shard_numbers(ordered)))
    return pa.table(columns, schema=FRAME_SCHEMA)


def _video_table(ordered: Sequence[VideoEntry]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    first_row = 0
    for number, (video, shards) in enumerate(zip(ordered, _shard_numbers(ordered), strict=True)):
        row = {name: getattr(video, name) for name in VIDEO_SCHEMA.names if hasattr(video, name)}
        row |= {"video": number, "first_row": first_row, "rows": video.frames.num_rows}
        row |= {"first_shard": int(shards[0]), "last_shard": int(shards[-1])} if len(shards) else {}
        lists = ("splits", "crop", "source_size", "masks", "text", "notes")
        rows.append(row | {name: list(getattr(video, name)) for name in lists})
        first_row += video.frames.num_rows
    return _rows(rows, VIDEO_SCHEMA)


def _concat(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([table.select(schema.names) for table in tables]) if tables else schema.empty_table()


def _rows(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def _by_path(row: dict[str, Any]) -> tuple[str, str]:
    return row["path"], row["reason"]
