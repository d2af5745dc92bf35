"""The decoder of training: libjpeg's pixels to the bit, and nothing painted over where a file ends early."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trocar.data.loading.steps import decode_jpeg
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.still import frame_size


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def by_pillow(data: bytes) -> torch.Tensor | None:
    """Another build of libjpeg-turbo, with its defaults: accurate integer DCT, smooth chroma."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError):
        return None


def kinds() -> Iterator[tuple[str, bytes]]:
    for width, height in ((160, 120), (161, 119), (17, 9), (1, 1)):
        image = picture(width, height)
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            yield f"{subsampling} {width}x{height}", saved(image, subsampling=subsampling)
        yield f"progressive {width}x{height}", saved(image, progressive=True)
        yield f"restart markers {width}x{height}", saved(image, restart_marker_rows=1)
        yield f"grey {width}x{height}", saved(image.convert("L"))
        yield f"CMYK {width}x{height}", saved(image.convert("CMYK"))


@pytest.mark.parametrize(("name", "data"), [pytest.param(*kind, id=kind[0]) for kind in kinds()])
def test_pixels_are_libjpegs_to_the_bit(name: str, data: bytes) -> None:
    found = decode_jpeg(data)
    assert found.dtype == torch.uint8
    assert torch.equal(found, by_pillow(data))


def test_channels_lie_last_in_memory_as_the_crops_read_them() -> None:
    found = decode_jpeg(saved(picture(40, 30)))
    assert found.shape == (3, 30, 40)
    assert found.stride() == (1, 120, 3)


def test_real_frames_have_libjpegs_pixels_to_the_bit(shared_data: Any) -> None:
    paths = sorted(shared_data.rglob("*.jpg"))[::50]
    assert len(paths) > 20
    for path in paths:
        data = path.read_bytes()
        assert torch.equal(decode_jpeg(data), by_pillow(data)), path


def damaged(number: int, rng: random.Random) -> bytes:
    """Bytes changed, a stretch of zeros, a damaged header, or cut short."""
    options = ({"subsampling": "4:2:0"}, {"progressive": True}, {"restart_marker_rows": 1})[number // 4 % 3]
    data = bytearray(saved(picture(160, 120), **options))
    scan = data.index(b"\xff\xda")
    if number % 4 == 0:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(scan, len(data))] = rng.randrange(256)
    elif number % 4 == 1:
        start = rng.randrange(scan, len(data))
        data[start : start + 200] = bytes(min(200, len(data) - start))
    elif number % 4 == 2:
        data[rng.randrange(2, scan + 14)] = rng.randrange(256)
    else:
        del data[rng.randrange(2, len(data)) :]
    return bytes(data)


def test_damage_that_the_check_of_markers_lets_pass_has_libjpegs_verdict_and_pixels() -> None:
    rng = random.Random(0)
    accepted = refused = 0
    for number in range(240):
        data = damaged(number, rng)
        try:
            width, height = frame_size(data)
        except ValueError:
            continue
        if width * height > 10**6:
            continue
        wanted = by_pillow(data)
        try:
            found: torch.Tensor | None = decode_jpeg(data)
        except RejectError:
            found = None
        assert (found is None) == (wanted is None), number
        if found is not None and wanted is not None:
            assert torch.equal(found, wanted), number
        accepted, refused = accepted + (found is not None), refused + (found is None)
    assert min(accepted, refused) > 10


@pytest.mark.parametrize("options", [{"subsampling": "4:2:0"}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_ends_early_is_refused_and_not_filled_with_grey(options: dict[str, Any], part: float) -> None:
    data = saved(picture(300, 200), **options)
    with pytest.raises(RejectError, match="incomplete or truncated"):
        decode_jpeg(data[: int(part * len(data))])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"text", "Not a JPEG file: starts with 0x74 0x65"),
        (b"\xff\xd8\xff\xd9", "JPEG datastream contains no image"),
    ],
)
def test_what_is_no_jpeg_is_refused_in_libjpegs_words(data: bytes, words: str) -> None:
    with pytest.raises(RejectError) as caught:
        decode_jpeg(data)
    assert caught.value.detail == words


def test_other_threads_run_while_a_picture_is_decoded() -> None:
    data = saved(picture(4000, 3000))
    ticks, done = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    before = ticks
    decode_jpeg(data)
    during = ticks - before
    done.set()
    thread.join()
    assert during > 15  # a decoder that keeps the lock leaves at most the 5 ms before its turn
