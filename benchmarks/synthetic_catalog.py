"""Write a catalog of millions of rows that all name a few real JPEGs, and measure what opening it costs.

python benchmarks/synthetic_catalog.py OUT --rows 5000000 --videos 2000
"""

from __future__ import annotations

import argparse
import io
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from trocar.data.catalog import FRAME_SCHEMA, QUALITY_SCHEMA, REJECTED_SCHEMA, SHARD_SCHEMA, VIDEO_SCHEMA, Catalog
from trocar.data.catalog_write import publish
from trocar.data.ingest.shards import ShardWriter

JPEGS = 64  # different frames; a row names one of them
SIZE = (455, 256)


def write_synthetic(root: Path, rows: int, videos: int, seed: int = 0) -> str:
    """A catalog of `rows` frames in `videos` videos, 1 fps, 4 sources, 8 hospitals; one shard holds the real bytes.

    Returns the fingerprint.
    """
    per_video = np.full(videos, rows // videos, np.int64)
    per_video[: rows % videos] += 1
    first = np.concatenate([[0], np.cumsum(per_video)[:-1]])
    video = np.repeat(np.arange(videos, dtype=np.int32), per_video)
    within = np.arange(rows, dtype=np.int64) - first[video]
    rng = np.random.default_rng(seed)
    writer = _one_shard(root, rng)
    stored = writer.frames()
    pick = rng.integers(0, JPEGS, rows)
    columns = {
        "video": video,
        "time_s": within.astype(np.float32),
        "shard": np.zeros(rows, np.int32),
        **{name: stored[name].to_numpy()[pick] for name in ("offset", "size", "crc32", "width", "height")},
    }
    tables = {
        "quality.parquet": _quality(rng, rows),
        "videos.parquet": _videos(per_video, first),
        "shards.parquet": pa.Table.from_pylist([vars(s) for s in writer.shards()], SHARD_SCHEMA),
        "rejected.parquet": REJECTED_SCHEMA.empty_table(),
    }
    return publish(root, pa.table({k: pa.array(v) for k, v in columns.items()}, schema=FRAME_SCHEMA), tables)


def _one_shard(root: Path, rng: np.random.Generator) -> ShardWriter:
    (root / "shards").mkdir(parents=True, exist_ok=True)
    with ShardWriter(root / "shards", "shared") as writer:
        for k in range(JPEGS):
            coarse = Image.fromarray(rng.integers(0, 256, (16, 28, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            coarse.resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90, subsampling="4:2:0")
            writer.add(float(k), buffer.getvalue(), *SIZE)
    return writer


def _quality(rng: np.random.Generator, rows: int) -> pa.Table:
    shares = {"black": 0.01, "uniform": 0.01, "blurred": 0.02, "near_duplicate": 0.05}
    columns = {name: pa.array(rng.random(rows, np.float32) < share) for name, share in shares.items()}
    columns["out_of_body"] = pa.array(rng.random(rows, np.float32) ** 8)
    for name in ("luma_mean", "luma_std", "sharpness"):
        columns[name] = pa.array(np.ones(rows, np.float32))
    columns["dhash_distance"] = pa.array(np.full(rows, 30, np.uint16))
    columns["dhash"] = pa.Array.from_buffers(pa.binary(32), rows, [None, pa.py_buffer(bytes(32 * rows))])
    return pa.table({name: columns[name] for name in QUALITY_SCHEMA.names}, schema=QUALITY_SCHEMA)


def _videos(per_video: np.ndarray, first: np.ndarray) -> pa.Table:
    count = len(per_video)
    rows = [
        {
            "video": i,
            "name": f"v{i:05d}",
            "case_id": f"c{i:05d}",
            "part": 1,
            "source": f"source{i * 4 // count}",
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
            "first_shard": 0,
            "last_shard": 0,
            "content": "full",
            "crop": [],
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, VIDEO_SCHEMA)


def measure_open(root: Path) -> None:
    """Print seconds and anonymous memory that `Catalog.open` takes in this process."""
    before = _anonymous_kib()
    started = time.perf_counter()
    catalog = Catalog.open(root)
    seconds = time.perf_counter() - started
    print(
        f"open: {len(catalog)} rows in {seconds:.3f} s, {(_anonymous_kib() - before) / 1024:.1f} MiB anonymous memory"
    )
    rows = np.random.default_rng(0).integers(0, len(catalog), 4096)
    started = time.perf_counter()
    total = int(catalog.frames["size"][rows].sum())
    print(f"4096 random rows: {1e3 * (time.perf_counter() - started):.2f} ms ({total} bytes named)")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB (imports and pages included)")


def _anonymous_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--open-only", action="store_true", help="measure a catalog that is there")
    args = parser.parse_args()
    if args.open_only:
        measure_open(args.out)
        return
    write_synthetic(args.out, args.rows, args.videos)
    subprocess.run([sys.executable, __file__, str(args.out), "--open-only"], check=True)


if __name__ == "__main__":
    main()
