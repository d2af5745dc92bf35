"""Ingests of broken input, and what a reference decoder makes of it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hostile_media import (
    saved,
)
from ingest_clips import stored
from PIL import Image, ImageFile

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.framing import IngestSettings
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.run import run_ingest

KEEP = IngestSettings(short_side=None, crop="none", fps=5, jpeg_quality=95)


JPEG_OFF = 4.0  # mean of 255: sources are JPEGs as well, and a second one rounds again


def as_jpeg(image: Image.Image | np.ndarray) -> Image.Image:
    """What is left of a picture in a JPEG as ingest writes it, by Pillow alone."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return Image.open(io.BytesIO(saved(picture, quality=95, subsampling="4:2:0"))).convert("RGB")


def ingest(folder: Path, out: Path, settings: IngestSettings = KEEP, **options: Any) -> tuple[Catalog, dict[str, str]]:
    """The catalog, and the reason of each rejected path by its last part."""
    options = {"sources": (folder,), "out": out, "settings": settings, **options}
    run_ingest(IngestOptions(**options), lambda line: None, lambda *_: None)
    catalog = Catalog.open(out)
    return catalog, {Path(row["path"]).name: row["reason"] for row in catalog.rejected().to_pylist()}


def ingest_images(
    folder: Path, files: dict[str, bytes], **settings: Any
) -> tuple[dict[int, Image.Image], dict[str, str]]:
    """Frame number -> stored picture, and the reason of each rejected file; files are `000.jpg` and so on."""
    (folder / "in" / "v").mkdir(parents=True)
    for name, content in files.items():
        (folder / "in" / "v" / name).write_bytes(content)
    catalog, rejected = ingest(
        folder / "in",
        folder / "out",
        KEEP.model_copy(update={"fps": 1.0, **settings}),
        frames=r"(?P<number>\d+).*",
        frames_fps=1.0,
        first_number=0,
    )
    found = stored(catalog, "v") if catalog.videos.num_rows else []
    return {round(time): image for time, image in found}, rejected


def pillow_decodes(data: bytes) -> Image.Image | None:
    """What the reference decoder makes of these bytes; None where it refuses them."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            return image.convert("RGB") if image.getexif().get(0x0112, 1) == 1 else None
    except Exception:
        return None
