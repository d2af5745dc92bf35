"""Pictures and videos as hospitals and attackers deliver them, made on the fly from a seed."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from ingest_clips import picture
from PIL import Image


def scene(size: tuple[int, int] = (96, 64), seed: int = 0) -> Image.Image:
    """A smooth random RGB picture of `size` (width, height)."""
    coarse = np.random.default_rng(seed).integers(40, 220, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image: Image.Image, orientation: int) -> bytes:
    """A JPEG that its EXIF orientation shows turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, exif=exif.tobytes(), quality=95)


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes that claims width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_bomb(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims width x height pixels."""
    data = bytearray(saved(scene()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def truncated(data: bytes, rng: random.Random) -> bytes:
    """A beginning of the bytes."""
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """The same with up to eight bits the other way round."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwritten(data: bytes, rng: random.Random) -> bytes:
    """The same with a stretch of noise."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randint(1, 200))
    return data[:start] + rng.randbytes(end - start) + data[end:]


DAMAGES = (truncated, flipped, overwritten)


def raw_video(
    path: Path, count: int, size: tuple[int, int], pixel_format: str = "yuv420p", codec: str = "ffv1", fps: int = 5
) -> Path:
    """`count` frames in any pixel format; frame i shows `scene(size, i)`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(np.asarray(scene(size, i)), format="rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rotate_metadata(path: Path, quarter: int) -> None:
    """Set the display matrix of an MP4 (tkhd version 0) to `quarter` turns clockwise."""
    matrix = ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))[quarter]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix begins 40 bytes after the version
    a, b, c, d = (value << 16 for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)


def decoded(path: Path) -> list[tuple[float, np.ndarray]]:
    """(seconds from the first, RGB) of every picture that the file gives, by a plain decode; stops at an error."""
    found: list[tuple[float, np.ndarray]] = []
    first: float | None = None
    with av.open(str(path), metadata_errors="replace") as container:
        for frame in container.decode(video=0):
            first = frame.time if first is None else first
            found.append((frame.time - first, frame.to_ndarray(format="rgb24")))
    return found


def on_display(pictures: Sequence[tuple[float, np.ndarray]], time: float) -> np.ndarray:
    """The last picture that begins at or before `time` (plus a millisecond: containers round)."""
    return [pixels for begin, pixels in pictures if begin <= time + 1e-3][-1]


def off(a: np.ndarray | Image.Image, b: np.ndarray | Image.Image) -> float:
    """Mean absolute difference of two pictures of one size, 0..255; infinite for two sizes."""
    x, y = np.asarray(a, int), np.asarray(b, int)
    return float(np.abs(x - y).mean()) if x.shape == y.shape else float("inf")


def numbered(count: int) -> list[np.ndarray]:
    return [picture(i) for i in range(count)]
