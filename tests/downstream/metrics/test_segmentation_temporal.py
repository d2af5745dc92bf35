"""Consistency of consecutive masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trocar.downstream.metrics.segmentation_details import consecutive, nearest_pixels, tc_iou
from trocar.errors import TrocarError

NAMES = ("background", "grasper", "hook")


def masks(*rows: str) -> np.ndarray:
    return np.array([[[int(c) for c in row]] for row in rows], dtype=np.uint8)


def test_labels_average_over_the_pairs_that_have_them_then_over_labels() -> None:
    found = consecutive(masks("0011", "0111", "0002"), np.zeros(3, int), np.zeros(3, int), NAMES, size=None)
    # background: 1/2 and 1/3; grasper: 2/3 and 0; hook, in the second pair only: 0.
    assert tc_iou(found) == pytest.approx(((1 / 2 + 1 / 3) / 2 + (2 / 3 + 0) / 2 + 0) / 3)


def test_no_pair_crosses_from_one_clip_to_the_next() -> None:
    found = consecutive(masks("00", "00", "11", "11"), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), NAMES)
    assert len(found.confusions) == 2
    assert found.case.tolist() == [0, 1]
    assert tc_iou(found) == 1.0


def test_masks_are_resized_to_299_by_the_nearest_pixel() -> None:
    found = consecutive(masks("01", "01"), np.zeros(2, int), np.zeros(2, int), NAMES)
    assert found.confusions[0].sum() == 299 * 299
    assert found.confusions[0].diagonal().tolist() == [150 * 299, 149 * 299, 0]


@pytest.mark.parametrize("height", [65, 480, 520, 854, 1040, 1080])
def test_the_nearest_pixels_are_those_of_torch(height: int) -> None:
    numbers = np.arange(height, dtype=np.int64)[:, None] * [1, 1]
    found = nearest_pixels(numbers)[:, 0]  # type: ignore[arg-type]
    column = torch.arange(height, dtype=torch.float32)[None, None, :, None]
    expected = torch.nn.functional.interpolate(column, size=(299, 1), mode="nearest").flatten()
    assert found.tolist() == expected.long().tolist()
    exactly = [row * height // 299 for row in range(299)]
    assert (found.tolist() == exactly) == (height in (480, 854, 1080))


def test_weights_count_the_pairs_of_a_case() -> None:
    found = consecutive(masks("00", "00", "00", "11"), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), NAMES)
    assert tc_iou(found, np.array([1.0, 0.0])) == 1.0
    assert tc_iou(found, np.array([0.0, 1.0])) == 0.0


def test_single_masks_have_no_consistency() -> None:
    with pytest.raises(TrocarError, match="two or more masks"):
        consecutive(masks("00", "11"), np.array([0, 1]), np.array([0, 1]), NAMES)
