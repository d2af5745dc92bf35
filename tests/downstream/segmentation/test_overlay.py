"""Overlays of the best, the median and the worst image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trocar.downstream.segmentation.predict import PALETTE, colours, draw_overlays, ranked, tinted


def test_best_median_and_worst_leave_out_images_without_a_score() -> None:
    assert ranked(np.array([0.4, np.nan, 0.9, 0.1, 0.7])) == {"best": 2, "median": 0, "worst": 3}
    assert ranked(np.array([0.5])) == {"best": 0, "median": 0, "worst": 0}
    with pytest.raises(ValueError, match="no image has a score"):
        ranked(np.array([np.nan]))


def test_background_and_unlabelled_pixels_keep_the_image_and_a_class_has_its_outline() -> None:
    image = np.full((40, 40, 3), 100, dtype=np.uint8)
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[10:30, 10:30] = 2
    mask[:5] = 255
    found = tinted(image, mask, 3, background=0)
    grey = 100 / 255
    assert (found[mask == 0] == grey).all()
    assert (found[mask == 255] == grey).all()
    colour = colours(3, 0)[2]
    assert np.allclose(found[10, 10:30], colour)
    assert np.allclose(found[20, 20], 0.65 * grey + 0.35 * colour)


def test_the_first_colours_are_okabe_and_itos_and_the_background_takes_none() -> None:
    assert colours(3, 0)[1] * 255 == pytest.approx([230, 159, 0])
    assert (colours(3, 1)[0] == colours(3, 0)[1]).all()
    assert len({tuple(c) for c in colours(len(PALETTE) + 1, 0)[1:]}) == len(PALETTE)


def test_the_png_is_written_and_the_same_again(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (3, 24, 40, 3)).astype(np.uint8)
    gt = np.zeros((3, 24, 40), dtype=np.uint8)
    gt[:, 4:20, 6:30] = 1
    gt[0, :2] = 255
    pred = np.roll(gt, 3, axis=2) % 255
    scores = np.array([0.9, 0.5, 0.7])
    rows = draw_overlays(images, gt, pred, scores, ("background", "liver"), tmp_path / "a.png")
    draw_overlays(images, gt, pred, scores, ("background", "liver"), tmp_path / "b.png")
    assert rows == {"best": 0, "median": 2, "worst": 1}
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1320
        found = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    orange = np.array([230, 159, 0])
    assert (np.abs(found.astype(int) - orange).max(1) < 3).sum() > 200
