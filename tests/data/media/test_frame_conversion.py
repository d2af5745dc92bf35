"""Cutting, scaling and colour conversion in one pass, against the same done in floating point."""

from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from trocar.data.media.frame_conversion import Scaler, to_rgb

# Luma weights of red and blue: ITU-R BT.601 and BT.709; the numbers of FFmpeg's AVColorSpace.
MATRICES = {5: (0.299, 0.114), 1: (0.2126, 0.0722)}
LIMITED, FULL = 1, 2


def planes(size: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    """Smooth luma and half-size chroma, uint8."""
    rng = np.random.default_rng(0)
    shapes = [size, (size[0] // 2, size[1] // 2), (size[0] // 2, size[1] // 2)]
    coarse = [Image.fromarray(rng.integers(70, 180, (4, 6), dtype=np.uint8)) for _ in shapes]
    return [
        np.asarray(image.resize(shape, Image.Resampling.BICUBIC)) for image, shape in zip(coarse, shapes, strict=True)
    ]


def frame_of(parts: list[np.ndarray], matrix: int, colour_range: int) -> av.VideoFrame:
    stacked = np.concatenate([part.ravel() for part in parts]).reshape(-1, parts[0].shape[1])
    frame = av.VideoFrame.from_ndarray(stacked, format="yuv420p")
    frame.colorspace, frame.color_range = matrix, colour_range
    return frame


def expected(parts: list[np.ndarray], matrix: int, colour_range: int) -> np.ndarray:
    """float[height, width, 3]: the definition of the two standards, chroma sited as in MPEG-2 and H.264."""
    height, width = parts[0].shape
    luma = parts[0].astype(np.float32)
    # A chroma sample sits on the left one of its two pixels: a quarter of its own width from the middle.
    box = (0.25, 0, width / 2 + 0.25, height / 2)
    padded = [Image.fromarray(np.pad(p.astype(np.float32), ((0, 0), (0, 1)), "edge")) for p in parts[1:]]
    blue, red = (np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box)) for image in padded)
    luma, spread = ((luma - 16) / 219, 224) if colour_range == LIMITED else (luma / 255, 255)
    blue, red = (blue - 128) / spread, (red - 128) / spread
    of_red, of_blue = MATRICES[matrix]
    r, b = luma + 2 * (1 - of_red) * red, luma + 2 * (1 - of_blue) * blue
    g = (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return np.clip(np.stack([r, g, b], axis=-1) * 255, 0, 255)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
def test_matrix_and_range_of_the_stream_are_applied(matrix: int, colour_range: int) -> None:
    parts = planes()
    found = np.asarray(to_rgb(frame_of(parts, matrix, colour_range)), np.float32)
    wanted = expected(parts, matrix, colour_range)
    assert np.abs(found - wanted).mean() < 2.0
    assert np.abs((found - wanted).mean(axis=(0, 1))).max() < 0.5  # no cast
    other = next(number for number in MATRICES if number != matrix)
    assert np.abs(found - expected(parts, other, colour_range)).mean() > 3.5


def test_a_box_is_cut_before_scaling() -> None:
    parts = planes()
    frame = frame_of(parts, 5, LIMITED)
    box = (20, 10, 60, 40)
    found = Scaler().rgb(frame, box, (30, 20)).astype(np.float32)
    whole = to_rgb(frame)
    wanted = whole.resize((30, 20), Image.Resampling.BICUBIC, box=(20, 10, 80, 50))
    assert found.shape == (20, 30, 3)
    assert np.abs(found - np.asarray(wanted, np.float32)).mean() < 1.0
    elsewhere = whole.resize((30, 20), Image.Resampling.BICUBIC, box=(22, 10, 82, 50))
    assert np.abs(found - np.asarray(elsewhere, np.float32)).mean() > 1.0


def test_a_scaler_follows_a_change_of_size() -> None:
    scaler = Scaler()
    for size in ((96, 64), (64, 48), (96, 64)):
        frame = frame_of(planes(size), 5, LIMITED)
        assert np.array_equal(scaler.rgb(frame, None, (32, 24)), Scaler().rgb(frame, None, (32, 24)))
