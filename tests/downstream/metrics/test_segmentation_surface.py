"""Normalised surface Dice by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trocar.downstream.metrics.outcome import SegmentationOutcome, confusions
from trocar.downstream.metrics.segmentation import empty_1, sar_rarp50, surface_class_then_image, surface_empty_1
from trocar.downstream.metrics.segmentation_details import surface_dice
from trocar.errors import TrocarError


def square(top: int, left: int, side: int = 5, label: int = 1) -> np.ndarray:
    mask = np.zeros((1, 20, 20), dtype=np.uint8)
    mask[0, top : top + side, left : left + side] = label
    return mask


def test_a_square_moved_by_three_pixels_is_right_at_a_tolerance_of_three() -> None:
    gt, pred = square(5, 5), square(5, 8)
    assert surface_dice(gt, pred, 2, 3)[0, 1] == 1.0
    # At 0: of 16 outline pixels each, the 2 x 2 columns 8 and 9 of the upper and lower edge lie on the other outline.
    assert surface_dice(gt, pred, 2, 0)[0, 1] == pytest.approx(2 * 4 / 32)


def test_every_pixel_near_the_other_outline_counts_one() -> None:
    gt, pred = square(5, 5, side=1), square(5, 7, side=1)
    assert surface_dice(gt, pred, 2, 1.9)[0, 1] == 0.0
    assert surface_dice(gt, pred, 2, 2.0)[0, 1] == 1.0


def test_surface_dice_is_what_all_pairs_of_outline_pixels_give() -> None:
    generator = np.random.default_rng(0)
    gt, pred = (generator.random((2, 1, 9, 12)) < 0.6).astype(np.uint8)
    outlines = []
    for mask in (gt[0], pred[0]):
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        outlines.append(np.argwhere((mask == 1) & (inner == 0)))
    distance = np.linalg.norm(outlines[0][:, None] - outlines[1][None], axis=-1)
    for tolerance in (0.0, 1.0, 1.5):
        near = (distance.min(1) <= tolerance).sum() + (distance.min(0) <= tolerance).sum()
        expected = near / sum(len(o) for o in outlines)
        assert surface_dice(gt, pred, 2, tolerance)[0, 1] == pytest.approx(expected)


def test_a_class_at_the_image_border_has_its_outline_there() -> None:
    full = np.ones((1, 6, 6), dtype=np.uint8)
    half = full.copy()
    half[0, :, 3:] = 0
    # Outlines: 20 pixels of the full image, 14 of its left half; 12 of the first are on the second, all but the 4
    # inner ones of its last column are on the first.
    assert surface_dice(full, half, 2, 0)[0, 1] == pytest.approx((10 + 10) / (20 + 14))


def test_absent_in_both_is_undefined_and_in_one_zero() -> None:
    empty = np.zeros((1, 20, 20), dtype=np.uint8)
    assert np.isnan(surface_dice(empty, empty, 2, 1)[0, 1])
    assert surface_dice(empty, square(5, 5), 2, 1)[0, 1] == 0.0
    assert surface_dice(square(5, 5), empty, 2, 1)[0, 1] == 0.0


def test_a_prediction_on_ignored_pixels_does_not_count() -> None:
    gt, pred = square(5, 5), square(5, 5)
    gt[0, 12:] = 255
    pred[0, 14:18, 14:18] = 1
    assert surface_dice(gt, pred, 2, 0)[0, 1] == 1.0


def test_sar_rarp50_takes_one_for_classes_that_are_nowhere() -> None:
    gt = np.concatenate([square(5, 5), square(5, 5)])
    pred = np.concatenate([square(5, 5), square(5, 8)])
    outcome = SegmentationOutcome(
        confusions(gt, pred, 3), np.array([0, 1]), ("background", "shaft", "clip"), surface=surface_dice(gt, pred, 3, 1)
    )
    # Moved by 3 with tolerance 1: of 16 outline pixels, columns 7, 8, 9 of the upper and lower edge are near, and the
    # 3 between them in column 9.
    moved = 2 * 9 / 32
    assert surface_class_then_image(outcome) == pytest.approx((1 + moved) / 2)
    assert surface_empty_1(outcome) == pytest.approx((1 + (moved + 1) / 2) / 2)
    iou = (1 + (10 / 40 + 1) / 2) / 2
    assert sar_rarp50(outcome) == pytest.approx(np.sqrt(iou * surface_empty_1(outcome)))


def test_sar_rarp50_counts_a_video_once_however_many_frames_it_has() -> None:
    gt = np.concatenate([square(5, 5)] * 4)
    pred = np.concatenate([square(5, 5), square(5, 8), square(5, 8), square(5, 8)])
    outcome = SegmentationOutcome(
        confusions(gt, pred, 3),
        np.array([0, 1, 1, 1]),
        ("background", "shaft", "clip"),
        surface=surface_dice(gt, pred, 3, 1),
    )
    # Per frame, with 1 for the clip that is nowhere: IoU 1 or (10 / 40 + 1) / 2, surface Dice 1 or (18 / 32 + 1) / 2.
    iou, nsd = (1 + 0.625) / 2, (1 + 0.78125) / 2
    assert empty_1(outcome) == pytest.approx(iou)
    assert surface_empty_1(outcome) == pytest.approx(nsd)
    assert sar_rarp50(outcome) == pytest.approx(np.sqrt(iou * nsd))
    assert empty_1(outcome, np.array([0.0, 2.0])) == pytest.approx(0.625)


def test_surface_metrics_without_surfaces_say_what_is_missing() -> None:
    mask = square(5, 5)
    outcome = SegmentationOutcome(confusions(mask, mask, 2), np.array([0]), ("background", "shaft"))
    with pytest.raises(TrocarError, match="surface_dice"):
        surface_empty_1(outcome)
    with pytest.raises(TrocarError, match="different shapes"):
        surface_dice(mask, mask[:, :3], 2, 1)
