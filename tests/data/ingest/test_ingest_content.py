"""The content area: found to a few pixels, and never guessed from a minority of the frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from trocar.data.ingest.framing import find_content


def view(size: tuple[int, int], kind: str, box: tuple[int, int, int, int], seed: int, noise: int = 6) -> Image.Image:
    """A textured disc or rectangle filling `box` (left, top, width, height) on noisy black."""
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = rng.integers(0, noise, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    left, top, w, h = box
    inside = (x >= left) & (x < left + w) & (y >= top) & (y < top + h)
    if kind == "disc":
        inside &= (x - left - w / 2) ** 2 + (y - top - h / 2) ** 2 < (w / 2) ** 2
    pixels[inside] = rng.integers(60, 220, (int(inside.sum()), 3))
    return Image.fromarray(pixels.astype(np.uint8))


def assert_close(found: Sequence[int] | None, expected: Sequence[int], slack: int) -> None:
    assert found is not None
    assert np.abs(np.subtract(found, expected)).max() <= slack, (found, expected)


def test_a_disc_is_cut_at_its_rim() -> None:
    box = (280, 20, 680, 680)
    content = find_content([view((1280, 720), "disc", box, seed) for seed in range(6)])
    assert content.kind == "circle"
    assert_close(content.box, box, slack=14)


def test_a_disc_cut_off_above_and_below_keeps_its_height() -> None:
    box = (140, -100, 1000, 1000)
    content = find_content([view((1280, 720), "disc", box, seed) for seed in range(6)])
    assert content.kind == "circle"
    assert_close(content.box, (140, 0, 1000, 720), slack=14)


def test_black_bars_are_cut_to_even_pixels() -> None:
    content = find_content([view((854, 480), "rectangle", (108, 0, 638, 480), seed) for seed in range(6)])
    assert content.kind == "rectangle"
    assert_close(content.box, (108, 0, 638, 480), slack=4)
    assert content.box is not None
    assert all(edge % 2 == 0 for edge in content.box)


def test_a_full_picture_stays_whole() -> None:
    content = find_content([view((854, 480), "rectangle", (0, 0, 854, 480), seed) for seed in range(4)])
    assert (content.kind, content.box) == ("full", None)


def test_black_frames_and_text_in_the_border_don_t_count() -> None:
    box = (280, 20, 680, 680)
    frames = [view((1280, 720), "disc", box, seed) for seed in range(4)]
    for frame in frames:
        frame.paste((255, 255, 255), (20, 640, 200, 650))
        frame.paste((255, 255, 255), (1180, 660, 1260, 670))
    frames += [Image.new("RGB", (1280, 720))] * 12
    assert_close(find_content(frames).box, box, slack=14)


def test_one_menu_screen_decides_nothing() -> None:
    box = (280, 20, 680, 680)
    frames = [view((1280, 720), "disc", box, seed) for seed in range(9)] + [
        Image.new("RGB", (1280, 720), (80, 140, 200))
    ]
    assert_close(find_content(frames).box, box, slack=14)


def test_a_view_that_zooms_keeps_its_largest_extent() -> None:
    small, large = (440, 160, 400, 400), (280, 20, 680, 680)
    frames = [view((1280, 720), "disc", small if seed % 2 else large, seed) for seed in range(10)]
    assert_close(find_content(frames).box, large, slack=14)


@pytest.mark.parametrize("frames", [[], [Image.new("RGB", (320, 180))] * 3])
def test_nothing_to_see_means_the_whole_frame(frames: list[Image.Image]) -> None:
    assert find_content(frames).box is None


def test_a_dark_corner_of_tissue_is_not_believed_to_be_all() -> None:
    content = find_content([view((1280, 720), "rectangle", (600, 300, 200, 200), seed) for seed in range(4)])
    assert content.box is None
