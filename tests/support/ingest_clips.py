"""Clips that say which frame they show: made on the fly, read back from stored frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.framing import IngestSettings
from trocar.data.ingest.options import IngestOptions, IngestSummary
from trocar.data.ingest.run import run_ingest

BITS, BLOCK = 12, 16
SIZE = (6 * BLOCK, 2 * BLOCK)
KEEP = IngestSettings(short_side=None, crop="none")


def picture(number: int, scale: int = 1, colour: tuple[int, int, int] = (230, 110, 100)) -> np.ndarray:
    """uint8[32 * scale, 96 * scale, 3]: `number` (0..4095) as twelve dark or tissue-coloured blocks."""
    bits = [(number >> k) & 1 for k in range(BITS)]
    blocks = np.array(bits, np.float32).reshape(2, 6, 1) * (np.array(colour) - 40) + 40
    return np.kron(blocks, np.ones((BLOCK * scale, BLOCK * scale, 1))).astype(np.uint8)


def number_in(image: Image.Image | np.ndarray) -> int:
    """The number that `picture` put there, at any size."""
    luma = np.asarray(Image.fromarray(np.asarray(image)).convert("L").resize((6, 2), Image.Resampling.BOX))
    return int(sum(int(bit) << k for k, bit in enumerate((luma.ravel() > 80).astype(int))))


def make_clip(
    path: Path,
    times: Sequence[Fraction | float],
    *,
    tick: Fraction = Fraction(1, 12800),
    codec: str = "libx264",
    gop: int = 25,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    scale: int = 1,
    pictures: Sequence[np.ndarray] | None = None,
    numbers: Sequence[int] | None = None,
) -> Path:
    """Write a video whose frame i shows `picture(i)` (or `numbers[i]`, or `pictures[i]`) from `times[i]` seconds on."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {"preset": "ultrafast", "crf": "12"})
        first = pictures[0] if pictures is not None else picture(0, scale)
        stream.width, stream.height, stream.pix_fmt = first.shape[1], first.shape[0], "yuv420p"
        stream.gop_size = gop
        stream.time_base = stream.codec_context.time_base = tick
        for i, time in enumerate(times):
            pixels = pictures[i] if pictures is not None else picture(numbers[i] if numbers else i, scale)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(Fraction(time) / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def constant(fps: Fraction | int, count: int) -> list[Fraction]:
    """Display times of `count` frames at a constant rate."""
    return [Fraction(i) / Fraction(fps) for i in range(count)]


def stored(catalog: Catalog, video: str) -> list[tuple[float, Image.Image]]:
    """(time, image) of every frame of a video in a catalog."""
    row = next(r for r in catalog.videos.to_pylist() if r["name"] == video)
    found = []
    for i in range(row["first_row"], row["first_row"] + row["rows"]):
        f = {name: column[i] for name, column in catalog.frames.items()}
        blob = catalog.shard_paths[f["shard"]].read_bytes()[f["offset"] : f["offset"] + f["size"]]
        found.append((float(f["time_s"]), Image.open(io.BytesIO(blob)).convert("RGB")))
    return found


def ingest(folder: Path, out: Path, /, **options: Any) -> tuple[IngestSummary, list[str]]:
    """The summary of an ingest that keeps size and border, and what it said."""
    said: list[str] = []
    options = {"settings": KEEP, **options}
    summary = run_ingest(IngestOptions(sources=(folder,), out=out, **options), said.append, lambda *_: None)
    return summary, said


def tree(root: Path) -> dict[str, bytes]:
    """Everything below `root` but the lock, by relative path."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "ingest.lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Have an MP4 of one track show point (x, y) of its pictures at (a x + c y, b x + d y), in 1/65536."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix begins 40 bytes after the version
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)


def shown_by_matrix(pixels: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Point by point what `set_display_matrix` means, moved back to where no coordinate is negative."""
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    across, down = (a * x + c * y) // 65536, (b * x + d * y) // 65536
    across, down = across - across.min(), down - down.min()
    shown = np.empty((int(down.max()) + 1, int(across.max()) + 1, 3), pixels.dtype)
    shown[down, across] = pixels
    return shown


WOVEN = {"x264-params": "tff=1", "crf": "12"}
"""Options of x264 for `make_clip`, which mark every frame as interlaced, its upper field first."""


def woven(count: int, step: int = 6) -> list[np.ndarray]:
    """uint8[96, 128, 3] frames of two fields each: a bright bar that has gone `step` pixels on in the lower field."""
    frames = []
    for k in range(count):
        fields = []
        for at in (2 * k * step, (2 * k + 1) * step):
            field = np.full((96, 128, 3), 60, np.uint8)
            field[:, 8 + at % 96 : 24 + at % 96] = 200
            fields.append(field)
        fields[0][1::2] = fields[1][1::2]
        frames.append(fields[0])
    return frames


def comb(image: Image.Image | np.ndarray) -> float:
    """How much every second line differs from the lines around it, in levels of 0..255."""
    luma = np.asarray(Image.fromarray(np.asarray(image)).convert("L")).astype(float)
    return float(np.abs(luma[1:-1] - (luma[:-2] + luma[2:]) / 2).mean())
