"""Write a catalog of millions of rows, a million at a time, and measure what opening it costs.

    python benchmarks/synthetic_catalog.py OUT --rows 5000000 --videos 2000
    python benchmarks/synthetic_catalog.py OUT --rows 100000000 --videos 27778 --own-shards

Videos at 1 fps of eight sources of unlike size. All rows name a few real JPEGs of one shard; with `--own-shards` every
video names a shard of its own, which is not written: positions as in a real tar, for simulations of reading.

Verdicts: 4 % of the frames black, uniform or blurred at random places (the worst case for the memory of a selection:
real verdicts come in stretches), 4 % near duplicates in stretches of 8, out-of-body at both ends of a video (4 %).
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from memory import anonymous_kib
from PIL import Image

from trocar.data.catalog.catalog import (
    FOLDER,
    FORMAT_VERSION,
    FRAME_SCHEMA,
    QUALITY_SCHEMA,
    REJECTED_SCHEMA,
    SHARD_SCHEMA,
    VIDEO_SCHEMA,
    Catalog,
    catalog_fingerprint,
)
from trocar.data.ingest.shard_writer import BLOCK, SHARD_BYTES, ShardWriter

Array = npt.NDArray[np.generic]

JPEGS = 64  # different frames; a row names one of them
SIZE = (455, 256)
MEAN_BYTES = 30_000  # of a frame, where shards are not written
CHUNK = 1 << 20
SOURCES = np.cumsum([0.30, 0.20, 0.15, 0.12, 0.10, 0.06, 0.04, 0.03])


def write_synthetic(root: Path, rows: int, videos: int, seed: int = 0, own_shards: bool = False) -> str:
    """A catalog of `rows` frames in `videos` videos; returns the fingerprint. Holds a million rows in memory."""
    per_video = np.full(videos, rows // videos, np.int64)
    per_video[: rows % videos] += 1
    first = np.cumsum(per_video) - per_video
    rng = np.random.default_rng(seed)
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    stored = None if own_shards else _one_shard(root, rng)
    if stored is None:
        shards = [{"path": f"shards/v{i:06d}-0000.tar", "bytes": SHARD_BYTES, "sha256": ""} for i in range(videos)]
    else:
        shards = [vars(shard) for shard in stored.shards()]
    _write_frames(folder / "frames.arrow", per_video, rng, stored)
    _write_quality(folder / "quality.parquet", per_video, rng)
    table = _videos(per_video, first, own_shards)
    pq.write_table(table, folder / "videos.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist(shards, SHARD_SCHEMA), folder / "shards.parquet", compression="zstd")
    pq.write_table(REJECTED_SCHEMA.empty_table(), folder / "rejected.parquet")
    pairs = zip(table["name"].to_pylist(), table["content_hash"].to_pylist(), strict=True)
    header = {
        "version": FORMAT_VERSION,
        "fingerprint": catalog_fingerprint(pairs),
        "videos": videos,
        "cases": videos,
        "frames": rows,
        "rejected": 0,
        "files": {path.name: path.stat().st_size for path in sorted(folder.glob("*.*")) if path.suffix != ".json"},
    }
    (folder / "catalog.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    return str(header["fingerprint"])


def _one_shard(root: Path, rng: np.random.Generator) -> ShardWriter:
    (root / "shards").mkdir(parents=True, exist_ok=True)
    with ShardWriter(root / "shards", "shared") as writer:
        for k in range(JPEGS):
            coarse = Image.fromarray(rng.integers(0, 256, (16, 28, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            coarse.resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90, subsampling="4:2:0")
            writer.add(float(k), buffer.getvalue(), *SIZE)
    return writer


def _chunks(per_video: Array) -> Iterator[slice]:
    """Ranges of videos of about a million rows."""
    size = max(1, int(CHUNK // per_video.max()))
    yield from (slice(at, min(at + size, per_video.size)) for at in range(0, per_video.size, size))


def _write_frames(path: Path, per_video: Array, rng: np.random.Generator, stored: ShardWriter | None) -> None:
    """One record batch, put together from a file per column, which are mapped and not read."""
    parts = {field.name: path.with_suffix(f".{field.name}") for field in FRAME_SCHEMA}
    files = {name: part.open("wb") for name, part in parts.items()}
    for span in _chunks(per_video):
        count = per_video[span]
        video = np.repeat(np.arange(span.start, span.stop, dtype=np.int32), count)
        start = np.repeat(np.cumsum(count) - count, count)
        columns = {"video": video, "time_s": (np.arange(video.size) - start).astype(np.float32)}
        columns |= _in_one_shard(stored, video, rng) if stored else _in_own_shards(video, start, rng)
        for field in FRAME_SCHEMA:
            columns[field.name].astype(field.type.to_pandas_dtype(), copy=False).tofile(files[field.name])
    for file in files.values():
        file.close()
    rows = int(per_video.sum())
    buffers = [pa.memory_map(str(parts[field.name])).read_buffer() for field in FRAME_SCHEMA]
    arrays = [
        pa.Array.from_buffers(f.type, rows, [None, buffer]) for f, buffer in zip(FRAME_SCHEMA, buffers, strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=FRAME_SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, FRAME_SCHEMA) as writer:
        writer.write_batch(batch)
    for part in parts.values():
        part.unlink()


def _in_one_shard(stored: ShardWriter, video: Array, rng: np.random.Generator) -> dict[str, Array]:
    table = stored.frames()
    pick = rng.integers(0, JPEGS, video.size)
    columns = {name: table[name].to_numpy()[pick] for name in ("offset", "size", "crc32", "width", "height")}
    return {"shard": np.zeros(video.size, np.int32), **columns}


def _in_own_shards(video: Array, start: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Positions as the tar writer puts them: header, JPEG padded to 512 bytes, header, one block of JSON."""
    size = (MEAN_BYTES * np.exp(rng.normal(0, 0.3, video.size) - 0.045)).astype(np.int32)
    step = 3 * BLOCK + -(-size.astype(np.int64) // BLOCK) * BLOCK
    begin = np.cumsum(step) - step
    full = {"crc32": np.zeros(video.size, np.uint32), "width": np.full(video.size, SIZE[0], np.uint16)}
    full["height"] = np.full(video.size, SIZE[1], np.uint16)
    return {"shard": video, "offset": begin - begin[start] + BLOCK, "size": size, **full}


def _write_quality(path: Path, per_video: Array, rng: np.random.Generator) -> None:
    with pq.ParquetWriter(path, QUALITY_SCHEMA, compression="zstd") as writer:
        for span in _chunks(per_video):
            count = per_video[span]
            rows = int(count.sum())
            from_start = np.arange(rows) - np.repeat(np.cumsum(count) - count, count)
            share = (from_start + 0.5) / np.repeat(count, count)
            columns = {name: pa.array(rng.random(rows, np.float32) < p) for name, p in _SCATTERED.items()}
            columns["near_duplicate"] = pa.array(np.repeat(rng.random(rows // 8 + 1) < 0.04, 8)[:rows])
            outside = np.where(np.abs(share - 0.5) > 0.48, 0.6, 0.0) + 0.4 * rng.random(rows)
            columns["out_of_body"] = pa.array(outside.astype(np.float32))
            for name in ("luma_mean", "luma_std", "sharpness"):
                columns[name] = pa.array(np.ones(rows, np.float32))
            columns["dhash_distance"] = pa.array(np.full(rows, 30, np.uint16))
            columns["dhash"] = pa.Array.from_buffers(pa.binary(32), rows, [None, pa.py_buffer(bytes(32 * rows))])
            writer.write_table(pa.table({n: columns[n] for n in QUALITY_SCHEMA.names}, schema=QUALITY_SCHEMA))


_SCATTERED = {"black": 0.005, "uniform": 0.005, "blurred": 0.03}


def _videos(per_video: Array, first: Array, own_shards: bool) -> pa.Table:
    count = len(per_video)
    rows = [
        {
            "video": i,
            "name": f"v{i:06d}",
            "case_id": f"c{i:06d}",
            "part": 1,
            "source": f"source{int(np.searchsorted(SOURCES[:-1], i / count, side='right'))}",
            "hospital": f"hospital{i * 8 // count}",
            "procedure": ("cholecystectomy", "appendectomy", "sleeve")[i % 3],
            "robotic": i % 7 == 0,
            "splits": ["train"],
            "private": False,
            "fps": 1.0,
            "duration_s": float(per_video[i]),
            "first_row": int(first[i]),
            "rows": int(per_video[i]),
            "content_hash": f"{i:064d}",
            "first_shard": i if own_shards else 0,
            "last_shard": i if own_shards else 0,
            "content": "full",
            "crop": [],
            "source_size": [],
            "masks": [],
            "damaged": 0,
            "notes": [],
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, VIDEO_SCHEMA)


def measure_open(root: Path) -> None:
    """Print seconds and anonymous memory that `Catalog.open` takes in this process."""
    before = anonymous_kib()
    started = time.perf_counter()
    catalog = Catalog.open(root)
    seconds = time.perf_counter() - started
    print(f"open: {len(catalog)} rows in {seconds:.3f} s, {(anonymous_kib() - before) / 1024:.1f} MiB anonymous memory")
    rows = np.random.default_rng(0).integers(0, len(catalog), 4096)
    started = time.perf_counter()
    total = int(catalog.frames["size"][rows].sum())
    print(f"4096 random rows: {1e3 * (time.perf_counter() - started):.2f} ms ({total} bytes named)")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB (imports and pages included)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--own-shards", action="store_true", help="a shard per video, not written: for simulations")
    parser.add_argument("--open-only", action="store_true", help="measure a catalog that is there")
    args = parser.parse_args()
    if args.open_only:
        measure_open(args.out)
        return
    write_synthetic(args.out, args.rows, args.videos, own_shards=args.own_shards)
    subprocess.run([sys.executable, __file__, str(args.out), "--open-only"], check=True)


if __name__ == "__main__":
    main()
