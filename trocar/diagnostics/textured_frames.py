"""Textured frames for the parity check: a small catalog in a temporary folder, or the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from trocar.core.random import make_key, uniform, words
from trocar.data.catalog.catalog import QUALITY_SCHEMA, Catalog
from trocar.data.catalog.writer import VideoEntry, write_catalog
from trocar.data.ingest.images.canonical_jpeg import encode
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.order.plan import Plan
from trocar.data.selection.composition import Composition
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe

FRAMES = 8
WIDTH, HEIGHT = 320, 240

# DINO's views (2 x 224, 8 x 96; arXiv 2104.14294) at the sizes that suit a small frame, and some by the other kernel.
RECIPE = ViewRecipe(
    groups={
        "global": ViewGroup(count=2, size=128, scale=(0.4, 1.0), blur=[1.0, 0.1], solarize=[0.0, 0.2]),
        "local": ViewGroup(count=4, size=64, scale=(0.05, 0.4)),
        "bilinear": ViewGroup(count=2, size=96, scale=(0.2, 1.0), interpolation="bilinear"),
    }
)


def textured(index: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture with coarse and fine detail in all channels: a smooth one would agree whatever was wrong."""
    key = make_key("doctor", index)
    coarse = uniform(words(key, 3, np.arange(height // 8)[:, None], np.arange(width // 8)[None]))
    fine = uniform(words(key, 3, np.arange(height)[:, None], np.arange(width)[None], 1))
    smooth = Image.fromarray((255 * coarse).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(smooth) + 60 * (fine - 0.5)).clip(0, 255).astype(np.uint8))


def write_frames(
    root: Path,
    count: int = FRAMES,
    rows: int | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    quality: int = 90,
) -> Catalog:
    """A catalog of `rows` frames (default: `count`) below `root`, which show `count` textured pictures in turn."""
    (root / "shards").mkdir(parents=True)
    pictures = [encode(textured(index, width, height), quality) for index in range(count)]
    rows = rows or count
    with ShardWriter(root / "shards", "textured") as writer:
        for row in range(rows):
            writer.add(float(row), pictures[row % count], width, height)
    entry = VideoEntry(
        name="textured",
        case_id="textured",
        part=1,
        source="doctor",
        fps=1.0,
        duration_s=float(rows),
        content_hash=writer.content.hexdigest(),
        shards=writer.shards(),
        frames=writer.frames(),
        quality=no_verdicts(rows),
    )
    write_catalog(root, [entry])
    return Catalog.open(root)


def loader_of(catalog: Catalog, backend: Backend, device: torch.device, hw_decoder_load: float = 0.0) -> Loader:
    """A loader of one step of at most FRAMES frames of a catalog, everything in the calling thread."""
    selection = Composition(curate="none").resolve(catalog)
    plan = Plan(selection, min(FRAMES, len(selection)), 0)
    views, reader = ViewPlan(RECIPE, 0), Reader(catalog)
    return Loader(
        plan,
        views,
        reader,
        (0.5,) * 3,
        (0.25,) * 3,
        workers=0,
        backend=backend,
        device=device,
        hw_decoder_load=hw_decoder_load,
    )


def no_verdicts(rows: int) -> pa.Table:
    """Quality verdicts of `rows` frames that nothing is known of."""
    columns = {field.name: [_nothing(field.type)] * rows for field in QUALITY_SCHEMA}
    return pa.table(columns, schema=QUALITY_SCHEMA)


def _nothing(kind: pa.DataType) -> bytes | bool | int:
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    return False if pa.types.is_boolean(kind) else 0
