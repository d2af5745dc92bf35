"""Catalogs with private videos, and ingests of tiny folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from data_factory import make_catalog

from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.writer import VideoEntry, write_catalog
from trocar.data.ingest.framing import IngestSettings
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.run import run_ingest

KEEP = IngestSettings(short_side=None, crop="none", fps=1)
NAMES = ("Inselspital", "St. Mary's Hospital", "case-0815", "20240131")


def ingest(folder: Path, out: Path, **options: Any) -> list[str]:
    said: list[str] = []
    options = {"settings": KEEP, **options}
    run_ingest(IngestOptions(sources=(folder,), out=out, **options), said.append, lambda *_: None)
    return said


def contents(folder: Path) -> bytes:
    """Every byte of every file below, and every file's name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return b"\n".join(str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes() for path in files)


def private_catalog(root: Path, private: tuple[bool, ...]) -> Catalog:
    """One video of six frames per entry of `private`, of a hospital and a case of its own."""
    import shutil

    made = make_catalog(root / "plain", len(private), 6)
    shutil.move(root / "plain" / "shards", root / "shards")
    quality = made.quality(list(made_columns()))
    entries = []
    shards = [row.name for row in made.shard_paths]
    for number, mark in enumerate(private):
        rows = slice(6 * number, 6 * number + 6)
        frames = {name: column[rows].copy() for name, column in made.frames.items()}
        frames["video"][:] = frames["shard"][:] = 0
        row = made.videos.slice(number, 1).to_pylist()[0]
        (shard,) = [name for name in shards if name.startswith(row["name"])]
        entries.append(_entry(root, row, shard, frames, {k: v[rows] for k, v in quality.items()}, number, mark))
    write_catalog(root, entries)
    return Catalog.open(root)


def made_columns() -> list[str]:
    from trocar.data.catalog.catalog import QUALITY_SCHEMA

    return list(QUALITY_SCHEMA.names)


def _entry(root, row, shard: str, frames, quality, number: int, mark: bool) -> VideoEntry:
    from trocar.core.files import sha256_of
    from trocar.data.catalog.catalog import FRAME_SCHEMA, QUALITY_SCHEMA
    from trocar.data.catalog.writer import ShardFile

    path = root / "shards" / shard
    quality = {k: ([bytes(v) for v in c] if k == "dhash" else c) for k, c in quality.items()}
    return VideoEntry(
        name=row["name"],
        case_id=f"case-08{15 + number}",
        part=1,
        source="ours",
        hospital=f"Inselspital{number}" if mark else f"Openclinic{number}",
        fps=1.0,
        duration_s=6.0,
        content_hash=row["content_hash"],
        shards=[ShardFile(f"shards/{shard}", path.stat().st_size, sha256_of(path))],
        frames=pa.table(frames, schema=FRAME_SCHEMA),
        quality=pa.table(quality, schema=QUALITY_SCHEMA),
        private=mark,
    )


SECRET = ("Inselspital", "case-0815", "case-0817", "video00", "video02")
