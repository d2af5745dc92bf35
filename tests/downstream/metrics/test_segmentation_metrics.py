"""The conventions against smp and torchmetrics on two 4 x 4 images, and their differences by hand."""

from __future__ import annotations

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torchmetrics.segmentation import DiceScore, MeanIoU

from trocar.downstream.metrics import segmentation as metrics
from trocar.downstream.metrics.outcome import SegmentationOutcome, bootstrap_interval, confusions
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS
from trocar.errors import TrocarError

NAMES = ("background", "liver", "grasper", "clip")


def two_images() -> tuple[np.ndarray, np.ndarray]:
    """Image 1: upper half liver, predicted so. Image 2: background, one pixel predicted as grasper. No clip."""
    gt = np.zeros((2, 4, 4), dtype=np.uint8)
    gt[0, :2] = 1
    pred = gt.copy()
    pred[1, 0, 0] = 2
    return gt, pred


def outcome_of(
    gt: np.ndarray, pred: np.ndarray, case: list[int] | None = None, names: tuple[str, ...] = NAMES
) -> SegmentationOutcome:
    cases = np.arange(len(gt)) if case is None else np.array(case)
    return SegmentationOutcome(confusions(gt, pred, len(names)), cases, names)


@pytest.fixture
def outcome() -> SegmentationOutcome:
    return outcome_of(*two_images())


def ours(name: str, outcome: SegmentationOutcome) -> float:
    return SEGMENTATION_METRICS[name](outcome, None)


def smp_iou(reduction: str, zero_division: float | str = 0) -> float:
    gt, pred = (torch.from_numpy(m).long() for m in two_images())
    stats = smp.metrics.get_stats(pred, gt, mode="multiclass", num_classes=4)
    return float(smp.metrics.iou_score(*stats, reduction=reduction, zero_division=zero_division))


def torchmetrics_value(metric: MeanIoU | DiceScore) -> list[float]:
    gt, pred = (torch.from_numpy(m).long() for m in two_images())
    metric.update(pred, gt)
    return [float(v) for v in metric.compute().flatten()]


def test_library_calls_on_the_same_two_images_differ_from_0367_to_0969() -> None:
    assert smp_iou("macro-imagewise", 0) == pytest.approx(0.367, abs=5e-4)
    assert smp_iou("macro-imagewise", 1) == pytest.approx(0.867, abs=5e-4)
    assert smp_iou("macro", 0) == pytest.approx(0.490, abs=5e-4)
    assert smp_iou("macro", 1) == pytest.approx(0.740, abs=5e-4)
    assert smp_iou("micro") == pytest.approx(0.939, abs=5e-4)
    assert smp_iou("micro-imagewise") == pytest.approx(0.941, abs=5e-4)
    assert torchmetrics_value(MeanIoU(4, input_format="index")) == pytest.approx([0.734], abs=5e-4)
    per_class = torchmetrics_value(MeanIoU(4, per_class=True, input_format="index"))
    assert per_class == pytest.approx([0.969, 1, 0, -1], abs=5e-4)
    expected = {"samplewise": 0.742, "global": 0.660}
    for level, value in expected.items():
        found = torchmetrics_value(DiceScore(4, average="macro", aggregation_level=level, input_format="index"))
        assert np.nanmean(found) == pytest.approx(value, abs=5e-4)
    for average, value in {"weighted": 0.984, "micro": 0.969}.items():
        found = torchmetrics_value(DiceScore(4, average=average, aggregation_level="global", input_format="index"))
        assert found == pytest.approx([value], abs=5e-4)


def test_conventions_that_are_a_library_call_equal_it(outcome: SegmentationOutcome) -> None:
    assert ours("iou@dataset_absent_zero", outcome) == pytest.approx(smp_iou("macro", 0))
    assert ours("iou@image_union", outcome) == pytest.approx(torchmetrics_value(MeanIoU(4, input_format="index"))[0])
    assert metrics.empty_1(outcome, background=True) == pytest.approx(smp_iou("macro-imagewise", 1))
    dice = DiceScore(4, average="macro", aggregation_level="samplewise", input_format="index")
    assert ours("dice@image_union", outcome) == pytest.approx(float(np.mean(torchmetrics_value(dice))))
    pooled = DiceScore(4, average="none", aggregation_level="global", input_format="index")
    found = torchmetrics_value(pooled)
    assert metrics.per_class(outcome, kind="dice")[:3] == pytest.approx(found[:3])
    assert ours("dice@dataset", outcome) == pytest.approx(0.660, abs=5e-4)


def test_the_other_conventions_on_the_two_images(outcome: SegmentationOutcome) -> None:
    first, second = 1.0, 15 / 16
    assert ours("iou@dataset", outcome) == pytest.approx((23 / 24 + 1 + 0) / 3)
    assert ours("iou@image_present_gt", outcome) == pytest.approx((first + second) / 2)
    assert ours("iou@class_then_image", outcome) == pytest.approx(((first + second) / 2 + 1 + 0) / 3)
    assert ours("iou@class_then_image_gt", outcome) == pytest.approx(((first + second) / 2 + 1) / 2)
    assert ours("iou@patient_pooled_no_background", outcome) == pytest.approx((1 + 0) / 2)
    assert ours("iou@empty_1_no_background", outcome) == pytest.approx((1 + 2 / 3) / 2)


def test_a_class_in_neither_mask_is_dropped_and_listed(outcome: SegmentationOutcome) -> None:
    assert np.isnan(metrics.per_class(outcome)[3])
    assert metrics.absent_classes(outcome) == ("clip",)
    assert ours("iou@dataset", outcome) > ours("iou@dataset_absent_zero", outcome)


def test_present_gt_forgives_a_false_tool_and_union_does_not() -> None:
    gt = np.zeros((1, 4, 4), dtype=np.uint8)
    gt[0, :2] = 1
    pred = gt.copy()
    pred[0, 3, 3] = 2
    outcome = outcome_of(gt, pred)
    assert ours("iou@image_present_gt_no_background", outcome) == 1.0
    assert ours("iou@image_union_no_background", outcome) == 0.5


def test_an_image_without_foreground_scores_one_only_if_nothing_is_predicted() -> None:
    gt = np.zeros((2, 2, 2), dtype=np.uint8)
    pred = gt.copy()
    pred[1, 0, 0] = 1
    assert ours("iou@image_present_gt_no_background", outcome_of(gt, pred)) == 0.5
    assert np.isnan(ours("iou@image_union_no_background", outcome_of(gt[:1], pred[:1])))


def test_mciou_of_matis_counts_an_image_for_a_class_that_is_only_predicted() -> None:
    """Three images of four pixels, classes 1 and 2 and a third that never occurs. Image 0 is all class 1 and right. In
    image 1 class 2 takes half of the two pixels of class 1; in image 2 it is drawn on background. Class 1: (1 + 1 / 2)
    / 2. Class 2: 0 in both images that it is predicted in. Class 3: in no list, which MATIS counts 0.
    """
    gt = np.array([[[1, 1], [1, 1]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]], dtype=np.uint8)
    pred = np.array([[[1, 1], [1, 1]], [[1, 2], [0, 0]], [[2, 0], [0, 0]]], dtype=np.uint8)
    outcome = outcome_of(gt, pred)
    first = (1 + 1 / 2) / 2
    assert ours("iou@class_then_image_absent_zero_no_background", outcome) == pytest.approx((first + 0 + 0) / 3)
    assert ours("iou@class_then_image_no_background", outcome) == pytest.approx((first + 0) / 2)
    assert ours("iou@class_then_image_gt_no_background", outcome) == pytest.approx(first)
    # Its mIoU leaves out the image without an instrument; Shvets et al. give it 0 for the false one.
    assert ours("iou@image_present_gt_not_empty_no_background", outcome) == pytest.approx((1 + 1 / 2) / 2)
    assert ours("iou@image_present_gt_no_background", outcome) == pytest.approx((1 + 1 / 2 + 0) / 3)
    # Its IoU: images 1, 1/2 and 0 for two classes, and 0.
    assert ours("iou@image_union_no_background", outcome) == pytest.approx((1 + 1 / 4 + 0) / 3)
    # One list of all pairs of an image and a class that it has.
    assert ours("iou@image_and_class_no_background", outcome) == pytest.approx((1 + 1 / 2 + 0 + 0) / 4)


def test_patient_pooled_counts_each_patient_once_however_many_images() -> None:
    gt = np.ones((4, 2, 2), dtype=np.uint8)
    pred = gt.copy()
    pred[3] = 0
    outcome = outcome_of(gt, pred, case=[0, 0, 0, 1])
    assert ours("iou@patient_pooled_no_background", outcome) == 0.5
    assert metrics.patient_values(outcome).tolist() == [1.0, 0.0]
    assert ours("iou@dataset_no_background", outcome) == 0.75


def test_binary_per_organ_leaves_out_images_without_organ_and_prediction() -> None:
    gt = np.zeros((3, 2, 2), dtype=np.uint8)
    pred = gt.copy()
    gt[0, 0] = 1
    pred[0, 0, 0] = 1  # half of the organ found
    pred[1, 0] = 1  # found where there is none
    outcome = outcome_of(gt, pred, names=("background", "spleen"))
    assert ours("iou@binary_per_organ", outcome) == pytest.approx((0.5 + 0) / 2)
    assert ours("dice@binary_per_organ", outcome) == pytest.approx((2 / 3 + 0) / 2)
    assert ours("precision@binary_per_organ", outcome) == pytest.approx((1 + 0) / 2)
    assert ours("recall@binary_per_organ", outcome) == pytest.approx(0.5)
    assert ours("specificity@binary_per_organ", outcome) == pytest.approx((1 + 0.5 + 1) / 3)
    assert np.isnan(metrics.binary_table(outcome)[2, 1])


def test_ignored_pixels_count_neither_as_truth_nor_as_false_positive() -> None:
    gt = np.full((1, 2, 2), 255, dtype=np.uint8)
    gt[0, 0] = 1
    pred = np.array([[[1, 1], [2, 3]]], dtype=np.uint8)
    assert confusions(gt, pred, 4).sum() == 2
    assert ours("iou@dataset", outcome_of(gt, pred)) == 1.0
    everything = np.full((1, 2, 2), 255, dtype=np.uint8)
    assert all(np.isnan(metric(outcome_of(everything, pred), None)) for metric in SEGMENTATION_METRICS.values())


def test_confusions_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix

    generator = np.random.default_rng(0)
    gt, pred = generator.integers(0, 4, (2, 3, 5, 7)).astype(np.uint8)
    found = confusions(gt, pred, 4)
    for g, p, counts in zip(gt, pred, found, strict=True):
        assert (counts == confusion_matrix(g.ravel(), p.ravel(), labels=range(4))).all()


def test_a_class_out_of_range_or_another_shape_is_an_error() -> None:
    gt = np.zeros((1, 2, 2), dtype=np.uint8)
    with pytest.raises(TrocarError, match="prediction has class 9"):
        confusions(gt, np.full_like(gt, 9), 4)
    with pytest.raises(TrocarError, match="different shapes"):
        confusions(gt, gt[:, :1], 4)


def random_outcome(names: tuple[str, ...] = NAMES) -> SegmentationOutcome:
    generator = np.random.default_rng(1)
    gt = generator.integers(0, len(names), (6, 4, 4)).astype(np.uint8)
    pred = np.where(generator.random(gt.shape) < 0.6, gt, generator.integers(0, len(names), gt.shape)).astype(np.uint8)
    return outcome_of(gt, pred, case=[0, 0, 1, 1, 1, 2], names=names)


@pytest.mark.parametrize("name", SEGMENTATION_METRICS)
def test_a_weight_of_two_is_the_case_twice(name: str) -> None:
    outcome = random_outcome()
    rows = np.array([0, 1, 0, 1, 5])
    repeated = SegmentationOutcome(outcome.confusions[rows], np.array([0, 0, 1, 1, 2]), NAMES)
    weighted = SEGMENTATION_METRICS[name](outcome, np.array([2.0, 0.0, 1.0]))
    assert weighted == pytest.approx(SEGMENTATION_METRICS[name](repeated, None))
    assert weighted != pytest.approx(SEGMENTATION_METRICS[name](outcome, None))


@pytest.mark.parametrize("name", [n for n in SEGMENTATION_METRICS if "background" not in n and "organ" not in n])
def test_renumbering_the_classes_changes_nothing_with_background(name: str) -> None:
    outcome = random_outcome()
    order = np.array([2, 0, 3, 1])
    renumbered = SegmentationOutcome(outcome.confusions[:, order][:, :, order], outcome.case, NAMES)
    if name.endswith(("patient_pooled", "empty_1")):
        assert SEGMENTATION_METRICS[name].keywords["background"]  # type: ignore[attr-defined]
    assert SEGMENTATION_METRICS[name](renumbered, None) == pytest.approx(SEGMENTATION_METRICS[name](outcome, None))


def test_perfect_masks_score_one_everywhere() -> None:
    gt = np.random.default_rng(2).integers(0, 4, (3, 4, 4)).astype(np.uint8)
    outcome = outcome_of(gt, gt)
    assert {metric(outcome, None) for metric in SEGMENTATION_METRICS.values()} == {1.0}


def test_the_bootstrap_over_cases_takes_these_metrics() -> None:
    outcome = random_outcome()
    interval = bootstrap_interval(SEGMENTATION_METRICS["iou@patient_pooled"], [outcome], draws=50)
    assert interval is not None
    low, high = interval
    values = metrics.patient_values(outcome, background=True)
    assert min(values) <= low < metrics.patient_pooled(outcome, background=True) < high <= max(values)
