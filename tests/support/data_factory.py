"""A small real catalog with real JPEG shards, for tests: `from data_factory import make_catalog`.

pytest puts the folder of tests/conftest.py on the path, so the import works from every test file.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from trocar.data.catalog.catalog import QUALITY_SCHEMA, Catalog
from trocar.data.catalog.writer import VideoEntry, write_catalog
from trocar.data.ingest.shard_writer import ShardWriter


def make_catalog(
    root: Path,
    videos: int = 4,
    frames: int | Sequence[int] = 8,
    *,
    sources: Sequence[str] = ("phantom",),
    hospitals: Sequence[str] = ("north", "south"),
    procedures: Sequence[str] = ("cholecystectomy",),
    splits: Sequence[str] = ("train",),
    parts: int = 1,
    size: tuple[int, int] | Sequence[tuple[int, int]] = (64, 48),
    fps: float = 1.0,
    seed: int = 0,
    flags: float = 0.0,
    private: Sequence[str] = (),
) -> Catalog:
    """Write and open a catalog below `root` (made if need be).

    Video i is `video{i:02d}` of source, hospital, procedure and split number i modulo their count; `parts`
    successive videos make one case. `frames` is a count per video, or one count for each. `size` is (width,
    height), or several that the frames of a video take in turns. `flags` is the share of frames whose quality
    verdicts are set (each verdict drawn on its own). `private`: ids of the cases that are.
    """
    rng = np.random.default_rng(seed)
    (root / "shards").mkdir(parents=True, exist_ok=True)
    sizes: list[tuple[int, int]] = [size] if isinstance(size[0], int) else list(size)
    counts = [frames] * videos if isinstance(frames, int) else list(frames)
    entries = []
    for i in range(videos):
        name = f"video{i:02d}"
        with ShardWriter(root / "shards", name) as writer:
            for k in range(counts[i]):
                its_size = sizes[k % len(sizes)]
                writer.add(k / fps, random_jpeg(rng, its_size), *its_size)
        case = i // parts
        entries.append(
            VideoEntry(
                name=name,
                case_id=f"case{case:02d}",
                part=i % parts + 1,
                source=sources[case % len(sources)],
                hospital=hospitals[case % len(hospitals)],
                procedure=procedures[case % len(procedures)],
                splits=(splits[case % len(splits)],),
                private=f"case{case:02d}" in private,
                fps=fps,
                duration_s=counts[i] / fps,
                content_hash=writer.content.hexdigest(),
                shards=writer.shards(),
                frames=writer.frames(),
                quality=random_quality(rng, counts[i], flags),
            )
        )
    write_catalog(root, entries)
    return Catalog.open(root)


def random_jpeg(rng: np.random.Generator, size: tuple[int, int] = (64, 48), quality: int = 90) -> bytes:
    """A smooth random picture as canonical JPEG (baseline, 4:2:0)."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def random_quality(rng: np.random.Generator, rows: int, flags: float = 0.0) -> pa.Table:
    """QUALITY_SCHEMA rows; each verdict is set for a share `flags` of them."""
    columns = {name: rng.random(rows) < flags for name in ("black", "uniform", "blurred", "near_duplicate")}
    hashes = [rng.bytes(32) for _ in range(rows)]
    return pa.table(
        {
            **columns,
            "out_of_body": (rng.random(rows) < flags).astype(np.float32),
            "luma_mean": np.full(rows, 100, np.float32),
            "luma_std": np.full(rows, 40, np.float32),
            "sharpness": np.ones(rows, np.float32),
            "dhash_distance": np.full(rows, 128, np.uint16),
            "dhash": pa.array(hashes, pa.binary(32)),
        },
        schema=QUALITY_SCHEMA,
    )
