"""Canonical JPEG is told from its markers, and the encoder writes nothing else."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trocar.data.ingest.framing import encode, is_canonical, target_size
from trocar.data.media.still import frame_size, open_jpeg


def picture(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image | None = None, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def test_encode_writes_canonical_jpeg_without_comment_or_profile() -> None:
    image = picture()
    image.info["comment"] = b"patient name"
    image.info["icc_profile"] = b"profile"
    data = encode(image, 90)
    assert is_canonical(data)
    assert b"patient" not in data
    assert b"profile" not in data
    error = np.abs(np.asarray(open_jpeg(data), int) - np.asarray(image, int)).mean()
    assert error < 4


def test_4_2_0_baseline_is_canonical() -> None:
    assert is_canonical(saved(subsampling="4:2:0", quality=77))
    assert is_canonical(saved(subsampling="4:2:0", comment=b"Lavc60.31.102"))


@pytest.mark.parametrize(
    "data",
    [
        saved(subsampling="4:4:4"),
        saved(subsampling="4:2:2"),
        saved(subsampling="4:2:0", progressive=True),
        saved(subsampling="4:2:0", icc_profile=b"x" * 40),
        saved(subsampling="4:2:0", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        saved(subsampling="4:2:0", comment=b"patient name"),
        saved(picture("L")),
        saved(picture("CMYK")),
        saved(kind="PNG"),
        saved(subsampling="4:2:0") + b"trailing",
        saved(subsampling="4:2:0")[:-30],
        b"",
        b"../frames/000001.jpg",
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_anything_else_is_not(data: bytes) -> None:
    assert not is_canonical(data)


def test_a_jpeg_that_the_reader_of_a_run_refuses_is_not_canonical() -> None:
    data = encode(Image.new("RGB", (32, 16), (90, 40, 20)), 90)
    filled = data[:-2] + b"\xff\xff\xd9"  # a fill byte before the end is legal, and libjpeg takes it
    with pytest.raises(ValueError, match="where there can be none"):
        frame_size(filled)
    assert is_canonical(data)
    assert not is_canonical(filled)


@pytest.mark.parametrize(
    ("width", "height", "side", "aspect", "expected"),
    [
        (854, 480, 256, "1", (455, 256)),
        (480, 854, 256, "1", (256, 455)),
        (200, 100, 256, "1", (200, 100)),
        (854, 480, None, "1", (854, 480)),
        (720, 576, None, "16/15", (768, 576)),
        (720, 480, None, "8/9", (720, 540)),
        (720, 576, 288, "16/15", (384, 288)),
    ],
)
def test_target_size(width: int, height: int, side: int | None, aspect: str, expected: tuple[int, int]) -> None:
    assert target_size(width, height, side, Fraction(aspect)) == expected
