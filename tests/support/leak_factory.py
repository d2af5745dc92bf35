"""Labelled folders and catalogs of textured pictures in which one operation can be copied into a pool."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.writer import VideoEntry, write_catalog
from trocar.data.ingest.quality import measure, quality_table
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.data.selection.composition import Composition
from trocar.data.selection.selection import Selection
from trocar.leakage.guard import LeakSearch

Pictures = Sequence[Image.Image]


def operation(seed: int, frames: int = 8, size: tuple[int, int] = (128, 96)) -> list[Image.Image]:
    """Pictures with coarse structure; every one differs from the others, and from those of other seeds."""
    rng = np.random.default_rng(seed)
    coarse = [Image.fromarray(rng.integers(60, 220, (6, 8, 3), dtype=np.uint8)) for _ in range(frames)]
    return [image.resize(size, Image.Resampling.BICUBIC) for image in coarse]


def resolve(composition: Composition, catalog: Catalog) -> Selection:
    """What it resolves to without what its `leak.against` names, by a search that has found nothing before."""
    return LeakSearch().resolve(composition, catalog)


def make_labelled(root: Path, cases: Mapping[str, Pictures], splits: Mapping[str, str] | None = None) -> Path:
    """The `folder` layout: one picture a second, the second half of every case is phase 1."""
    rows = []
    (root / "images").mkdir(parents=True)
    for case, images in cases.items():
        for k, image in enumerate(images):
            path = f"images/{case}_{k:03d}.png"
            image.save(root / path)
            split = (splits or {}).get(case, "")
            rows.append({"path": path, "case": case, "time_s": k, "split": split, "phase": k * 2 // len(images)})
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
    return root


def make_pool(root: Path, videos: Mapping[str, tuple[str, str, Pictures]]) -> Catalog:
    """A catalog at 1 fps of video name -> (source, case, pictures), with the hashes that ingest computes."""
    (root / "shards").mkdir(parents=True)
    entries = []
    for name, (source, case, images) in videos.items():
        with ShardWriter(root / "shards", name) as writer:
            for k, image in enumerate(images):
                writer.add(float(k), _jpeg(image), *image.size)
        entries.append(
            VideoEntry(
                name=name,
                case_id=case,
                part=1,
                source=source,
                hospital="",
                procedure="",
                splits=(),
                fps=1.0,
                duration_s=float(len(images)),
                content_hash=writer.content.hexdigest(),
                shards=writer.shards(),
                frames=writer.frames(),
                quality=quality_table([measure(image) for image in images]),
            )
        )
    write_catalog(root, entries)
    return Catalog.open(root)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling="4:2:0")
    return buffer.getvalue()
