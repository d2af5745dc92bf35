"""Segmentation, by convention. The same masks score between 0.37 and 0.97 depending on which one is meant.

For class c and a set of pixels, tp, fp and fn come from a confusion matrix. IoU = tp / (tp + fp + fn), Dice =
2 tp / (2 tp + fp + fn); both are undefined (NaN) where c is neither in the ground truth nor predicted. What is then
done about them, and whether pixels are pooled before or after the ratio, is what the conventions differ in. Every
metric takes `kind` ("iou" or "dice") and `background` (whether that class counts), and drops undefined values unless
it says otherwise; `absent_classes` lists what was dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Ints, SegmentationMetric, SegmentationOutcome, case_mean, ratio
from trocar.errors import TrocarError

Kind = Literal["iou", "dice"]
BinaryKind = Literal["iou", "dice", "precision", "recall", "specificity"]


def scores_of(counts: Floats | Ints, kind: BinaryKind = "iou") -> Floats:
    """Score per class, one against the rest, from counts [..., K, K]: [..., K], NaN where it is 0 / 0."""
    tp = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    fp, fn = counts.sum(-2) - tp, counts.sum(-1) - tp
    tn = counts.sum((-2, -1))[..., None] - tp - fp - fn
    top, bottom = {
        "iou": (tp, tp + fp + fn),
        "dice": (2 * tp, 2 * tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "specificity": (tn, tn + fp),
    }[kind]
    result: Floats = np.divide(top, bottom, out=np.full(tp.shape, np.nan), where=bottom > 0)
    return result


def pooled(outcome: SegmentationOutcome, weights: Floats | None = None) -> Floats:
    """One confusion matrix [K, K] over all images."""
    counts: Floats = outcome.by_case.sum(0) if weights is None else np.tensordot(weights, outcome.by_case, 1)
    return counts


def per_class(outcome: SegmentationOutcome, weights: Floats | None = None, *, kind: Kind = "iou") -> Floats:
    """`dataset` for each class, [K]; NaN for a class that is neither in the ground truth nor predicted."""
    return scores_of(pooled(outcome, weights), kind)


def absent_classes(outcome: SegmentationOutcome) -> tuple[str, ...]:
    """Names of the classes that are in no ground truth and no prediction: what the means leave out."""
    missing = np.isnan(per_class(outcome))
    return tuple(name for name, absent in zip(outcome.classes, missing, strict=True) if absent)


def dataset(
    outcome: SegmentationOutcome,
    weights: Floats | None = None,
    *,
    kind: Kind = "iou",
    background: bool = True,
    absent: Literal["drop", "zero"] = "drop",
) -> float:
    """`@dataset`: one confusion matrix over all images, score per class, mean over classes.

    Cityscapes' convention; with `absent="zero"`, where a class that does not occur costs 1 / K, that of Pissas et al.
    on CaDIS (arXiv 2108.06119). Large images and large organs dominate within a class, rare classes count fully: one
    image may decide over one of them.
    """
    values = per_class(outcome, weights, kind=kind)[_classes(outcome, background)]
    if absent == "zero" and not np.isnan(values).all():
        values = np.nan_to_num(values, nan=0.0)
    return _mean(values)


def image_present_gt(
    outcome: SegmentationOutcome,
    weights: Floats | None = None,
    *,
    kind: Kind = "iou",
    background: bool = True,
    empty: Literal["score", "drop"] = "score",
) -> float:
    """`@image_present_gt`: in each image the mean over the classes of its ground truth, then the mean over images.

    EndoVis 2017 type segmentation (Shvets et al., arXiv 1803.01207), without background. A class that is only
    predicted costs nothing but the pixels it takes from others: a false extra tool on background still scores 1. As in
    the code of Shvets et al., an image without any counted class in its ground truth scores 1 if none is predicted and
    0 otherwise; with `empty="drop"` (`@image_present_gt_not_empty`; MATIS' mIoU, without background) it is left out.
    """
    chosen = _classes(outcome, background)
    present = (outcome.confusions.sum(2) > 0) & chosen
    values = row_mean(np.where(present, scores_of(outcome.confusions, kind), np.nan))
    if empty == "score":
        nothing = ~present.any(1) & _labelled(outcome)
        predicted = (outcome.confusions.sum(1)[:, chosen] > 0).any(1)
        values = np.where(nothing, np.where(predicted, 0.0, 1.0), values)
    return _image_mean(outcome, values, weights)


def image_union(
    outcome: SegmentationOutcome, weights: Floats | None = None, *, kind: Kind = "iou", background: bool = True
) -> float:
    """`@image_union`: in each image the mean over the classes in ground truth or prediction, then over images.

    MATIS' IoU, without background; torchmetrics' MeanIoU and samplewise macro Dice. A single stray pixel of a wrong
    class adds a 0 to its image's mean. Images with no counted class in either are dropped.
    """
    return _image_mean(outcome, image_scores(outcome, kind=kind, background=background), weights)


def image_scores(outcome: SegmentationOutcome, *, kind: Kind = "iou", background: bool = True) -> Floats:
    """[n]: `image_union` of each image; what overlays are ranked by."""
    return row_mean(scores_of(outcome.confusions, kind)[:, _classes(outcome, background)])


def class_then_image(
    outcome: SegmentationOutcome,
    weights: Floats | None = None,
    *,
    kind: Kind = "iou",
    background: bool = True,
    over: Literal["union", "gt"] = "union",
    absent: Literal["drop", "zero"] = "drop",
) -> float:
    """`@class_then_image`: for each class the mean over the images where it occurs, then the mean over classes.

    "Occurs": in ground truth or prediction (EndoViT's `SegmentationMetrics`, the 65 % mIoU on CholecSeg8k), or with
    `over="gt"` in the ground truth. With `absent="zero"` (`@class_then_image_absent_zero`; MATIS' mcIoU, without
    background) a class that is in no image counts 0. Small and large images of a class count the same; a class of one
    image counts as much as one of a thousand. EndoViT's network may also predict a ninth, ignored class, which then
    adds a class of IoU 0; here there is none.
    """
    values = scores_of(outcome.confusions, kind)
    if over == "gt":
        values = np.where(outcome.confusions.sum(2) > 0, values, np.nan)
    means = _class_means(outcome, values, weights)[_classes(outcome, background)]
    return _mean(np.nan_to_num(means) if absent == "zero" and not np.isnan(means).all() else means)


def image_and_class(
    outcome: SegmentationOutcome, weights: Floats | None = None, *, kind: Kind = "iou", background: bool = True
) -> float:
    """`@image_and_class`: mean over all pairs of an image and a class that is in its ground truth or prediction.

    An image with many classes counts more than one with few, and a frequent class more than a rare one.
    """
    values = scores_of(outcome.confusions, kind)[:, _classes(outcome, background)]
    images = np.ones(len(values)) if weights is None else weights[outcome.case]
    drawn = images[:, None] * ~np.isnan(values)
    return float(ratio((drawn * np.nan_to_num(values)).sum(), drawn.sum()))


def patient_values(outcome: SegmentationOutcome, *, kind: Kind = "iou", background: bool = False) -> Floats:
    """[cases]: pixels pooled over the images of each case, score per class, mean over the classes it has.

    Mean and standard deviation of these are what SurgeNetDINO reports.
    """
    return row_mean(scores_of(outcome.by_case, kind)[:, _classes(outcome, background)])


def patient_pooled(
    outcome: SegmentationOutcome, weights: Floats | None = None, *, kind: Kind = "iou", background: bool = False
) -> float:
    """`@patient_pooled`: mean over cases of `patient_values`. SurgeNetDINO, without background.

    Every patient counts the same, however many images; classes that a patient neither has nor is given are dropped.
    """
    return case_mean(patient_values(outcome, kind=kind, background=background), weights)


def binary_table(outcome: SegmentationOutcome, *, kind: BinaryKind = "iou") -> Floats:
    """[n, K]: score of each class against the rest in each image, NaN where it is 0 / 0.

    The nanmean and nanstd of a column are what the DSAD baseline reports for an organ.
    """
    return scores_of(outcome.confusions, kind)


def binary_per_organ(outcome: SegmentationOutcome, weights: Floats | None = None, *, kind: BinaryKind = "iou") -> float:
    """`@binary_per_organ`: for each organ the mean over images, without those where it is 0 / 0; mean over organs.

    DSAD (Kolbinger et al. 2023): one binary model an organ, so an outcome has two classes, background and organ.
    Precision has no value where nothing is predicted, recall none where there is nothing: their means are over
    different images. Never with background.
    """
    means = _class_means(outcome, binary_table(outcome, kind=kind), weights)
    return _mean(means[outcome.foreground])


def empty_1(
    outcome: SegmentationOutcome, weights: Floats | None = None, *, kind: Kind = "iou", background: bool = False
) -> float:
    """`@empty_1`: per image and class, 1 where both are empty and 0 where one is; mean over classes, over the images of
    a case, over cases.

    SAR-RARP50's mIoU (MONAI's MeanIoU with `ignore_empty=False`, per video), over nine classes without background. Rare
    classes make it high: predicting nothing scores the share of images without them.
    """
    return _mean_of_cases(outcome, scores_of(outcome.confusions, kind)[:, _classes(outcome, background)], weights)


def surface_class_then_image(
    outcome: SegmentationOutcome, weights: Floats | None = None, *, background: bool = False
) -> float:
    """`nsd@class_then_image`: per class the mean over the images that have it in either mask, then over classes."""
    return _mean(_class_means(outcome, _surface(outcome), weights)[_classes(outcome, background)])


def surface_empty_1(outcome: SegmentationOutcome, weights: Floats | None = None, *, background: bool = False) -> float:
    """`nsd@empty_1`: SAR-RARP50's mNSD (tolerance 10 px there): 1 where both are empty, 0 where one is; means as in
    `empty_1`.
    """
    return _mean_of_cases(outcome, _surface(outcome)[:, _classes(outcome, background)], weights)


def sar_rarp50(outcome: SegmentationOutcome, weights: Floats | None = None) -> float:
    """`score@sar_rarp50`: sqrt(mIoU x mNSD), both `empty_1` without background; SAR-RARP50's ranking score."""
    return float(np.sqrt(empty_1(outcome, weights) * surface_empty_1(outcome, weights)))


def _registry() -> dict[str, SegmentationMetric]:
    found: dict[str, SegmentationMetric] = {}
    kinds: tuple[Kind, ...] = ("iou", "dice")
    for kind in kinds:
        for background, suffix in ((True, ""), (False, "_no_background")):
            both = {"kind": kind, "background": background}
            found[f"{kind}@dataset{suffix}"] = partial(dataset, **both)  # type: ignore[arg-type]
            found[f"{kind}@dataset_absent_zero{suffix}"] = partial(dataset, absent="zero", **both)  # type: ignore[arg-type]
            found[f"{kind}@image_present_gt{suffix}"] = partial(image_present_gt, **both)  # type: ignore[arg-type]
            found[f"{kind}@image_present_gt_not_empty{suffix}"] = partial(image_present_gt, empty="drop", **both)  # type: ignore[arg-type]
            found[f"{kind}@image_union{suffix}"] = partial(image_union, **both)  # type: ignore[arg-type]
            found[f"{kind}@class_then_image{suffix}"] = partial(class_then_image, **both)  # type: ignore[arg-type]
            found[f"{kind}@class_then_image_absent_zero{suffix}"] = partial(class_then_image, absent="zero", **both)  # type: ignore[arg-type]
            found[f"{kind}@image_and_class{suffix}"] = partial(image_and_class, **both)  # type: ignore[arg-type]
            found[f"{kind}@class_then_image_gt{suffix}"] = partial(class_then_image, over="gt", **both)  # type: ignore[arg-type]
            found[f"{kind}@patient_pooled{suffix}"] = partial(patient_pooled, **both)  # type: ignore[arg-type]
            found[f"{kind}@empty_1{suffix}"] = partial(empty_1, **both)  # type: ignore[arg-type]
    binary: tuple[BinaryKind, ...] = ("iou", "dice", "precision", "recall", "specificity")
    found |= {f"{kind}@binary_per_organ": partial(binary_per_organ, kind=kind) for kind in binary}
    return found


SEGMENTATION_METRICS: Mapping[str, SegmentationMetric] = _registry()
"""By name: `score@convention`, with `_no_background` where it is left out."""

SURFACE_METRICS: Mapping[str, SegmentationMetric] = {
    "nsd@class_then_image_no_background": surface_class_then_image,
    "nsd@empty_1_no_background": surface_empty_1,
    "score@sar_rarp50": sar_rarp50,
}
"""Those that need `SegmentationOutcome.surface`."""


def _classes(outcome: SegmentationOutcome, background: bool) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.ones(len(outcome.classes), dtype=bool) if background else outcome.foreground


def _labelled(outcome: SegmentationOutcome) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """[n]: images with a pixel that is not ignored."""
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = outcome.confusions.sum((1, 2)) > 0
    return found


def _surface(outcome: SegmentationOutcome) -> Floats:
    if outcome.surface is None:
        raise TrocarError("no surface Dice was computed for this outcome; pass the masks to `surface_dice` first")
    return outcome.surface


def _mean(values: Floats) -> float:
    return case_mean(values, None)


def row_mean(values: Floats) -> Floats:
    """Mean of each row over its values that are not NaN; NaN if there is none."""
    defined = ~np.isnan(values)
    count = defined.sum(1)
    total = np.where(defined, values, 0.0).sum(1)
    means: Floats = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return means


def _image_mean(outcome: SegmentationOutcome, values: Floats, weights: Floats | None) -> float:
    return case_mean(values, None if weights is None else weights[outcome.case])


def _mean_of_cases(outcome: SegmentationOutcome, values: Floats, weights: Floats | None) -> float:
    """[n, K], 1 for what is undefined in a labelled image: mean over classes, over the images of a case, over cases."""
    images = np.where(_labelled(outcome), np.nan_to_num(values, nan=1.0).mean(1), np.nan)
    return case_mean(np.array([_mean(images[outcome.case == c]) for c in range(outcome.cases)]), weights)


def _class_means(outcome: SegmentationOutcome, values: Floats, weights: Floats | None) -> Floats:
    """[n, K] -> [K]: weighted mean over the images where a class has a value."""
    images = None if weights is None else weights[outcome.case]
    return np.array([case_mean(column, images) for column in values.T])
