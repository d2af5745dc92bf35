"""Masks are cut as ingest has cut the pictures."""

from __future__ import annotations

import numpy as np

from trocar.data.ingest.framing import ShownPictures

MASK = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12)


def test_the_box_is_cut_out_of_a_mask_of_the_size_of_the_source() -> None:
    assert (ShownPictures((12, 8), (2, 1, 6, 4)).part_of(MASK, 255) == MASK[1:5, 2:8]).all()


def test_a_mask_at_another_scale_is_cut_at_that_scale() -> None:
    assert (ShownPictures((24, 16), (4, 2, 12, 8)).part_of(MASK, 255) == MASK[1:5, 2:8]).all()
    assert (ShownPictures((6, 4), (1, 1, 3, 2)).part_of(MASK, 255) == MASK[2:6, 2:8]).all()
    # 1.5 source pixels to one of the mask: 3 .. 10 of 18 is 2 .. 6.67 of 12.
    assert (ShownPictures((18, 12), (3, 3, 7, 6)).part_of(MASK, 255) == MASK[2:6, 2:7]).all()


def test_what_was_blacked_out_is_not_scored_and_the_mask_itself_stays() -> None:
    before = MASK.copy()
    found = ShownPictures((12, 8), (2, 0, 10, 8), ((0, 0, 4, 2), (10, 7, 2, 1))).part_of(MASK, 255)
    expected = MASK[:, 2:].copy()
    expected[:2, :2] = expected[7, 8:] = 255
    assert (found == expected).all()
    assert (before == MASK).all()
