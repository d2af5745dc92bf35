"""Masks beyond overlap: surfaces, and consistency from one frame to the next.

Own code on scipy's distance transform: the library that has it (MONAI) brings a second framework along, and
torchmetrics has the Hausdorff distance only.

The variants that follow the motion first (optical flow) need a flow network's weights and are not here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

from trocar.downstream.metrics.outcome import Floats, Ints, Masks, SegmentationOutcome, confusions
from trocar.downstream.metrics.segmentation import class_then_image
from trocar.errors import TrocarError

Mask = npt.NDArray[np.bool_]


def surface_dice(gt: Masks, pred: Masks, classes: int, tolerance: float, ignore: int = 255) -> Floats:
    """Normalised surface Dice (NSD) of every image and class: uint8 [n, H, W] twice -> float64 [n, K].

    NSD = (|{p in S_gt : d(p, S_pred) <= t}| + |{p in S_pred : d(p, S_gt) <= t}|) / (|S_gt| + |S_pred|), Nikolov et al.
    (arXiv 1809.04430), S the outline of a class, d the Euclidean distance and `tolerance` t in pixels of these masks:
    resize the masks and it is another metric. As MONAI counts it (without subvoxels): S are the pixels of the class
    with one of four neighbours outside of it or of the image, each counts 1. NaN where both are empty, 0 where one is.
    Pixels that are ignored belong to no class in either mask. SAR-RARP50 uses t = 10 at 1920 x 1080.

    Raises TrocarError for shapes that differ.
    """
    if gt.shape != pred.shape:
        raise TrocarError(f"ground truth {gt.shape} and predicted masks {pred.shape} have different shapes")
    rows = []
    for g, p in zip(gt, pred, strict=True):
        p = np.where(g == ignore, ignore, p)
        rows.append([_binary(g == c, p == c, tolerance) for c in range(classes)])
    return np.array(rows, dtype=np.float64).reshape(len(gt), classes)


def _binary(gt: Mask, pred: Mask, tolerance: float) -> float:
    if not gt.any() and not pred.any():
        return float("nan")
    if not gt.any() or not pred.any():
        return 0.0
    a, b = _outline(gt), _outline(pred)
    box = _bounds(a | b)
    a, b = a[box], b[box]
    near = (distance_transform_edt(~b)[a] <= tolerance).sum() + (distance_transform_edt(~a)[b] <= tolerance).sum()
    return float(near / (a.sum() + b.sum()))


def _outline(mask: Mask) -> Mask:
    outline: Mask = mask & ~binary_erosion(mask)
    return outline


def _bounds(mask: Mask) -> tuple[slice, slice]:
    """The rectangle that holds all of `mask`; distances between its pixels don't need more."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


SIZE = 299


def consecutive(
    masks: Masks,
    clip: Ints,
    case: Ints,
    classes: tuple[str, ...],
    *,
    background: int | None = 0,
    size: int | None = SIZE,
) -> SegmentationOutcome:
    """Pairs of neighbouring masks as an outcome: the earlier mask takes the ground truth's place.

    `masks` uint8 [n, H, W] predictions in the order of time within each `clip` (int64 [n]; no pair crosses from one
    to another), `case` int64 [n] the operation. Masks are resized to `size` x `size`, nearest pixel, as SASVi does;
    None leaves them. Raises TrocarError if no clip has two masks.
    """
    pairs = np.flatnonzero(clip[1:] == clip[:-1])
    if len(pairs) == 0:
        raise TrocarError("temporal consistency needs clips of two or more masks")
    used = masks if size is None else nearest_pixels(masks, size)
    return SegmentationOutcome(
        confusions(used[pairs], used[pairs + 1], len(classes)), case[pairs], classes, background=background
    )


def tc_iou(outcome: SegmentationOutcome, weights: Floats | None = None) -> float:
    """`tc_iou`: per label IoU of consecutive masks, mean over the pairs that have it, then over labels.

    SASVi's `eval_vid_T.py`; labels of either mask count, background included. `outcome` is that of `consecutive`.
    A constant mask scores 1: read it next to an accuracy only. Real motion lowers it, so compare models on the same
    frames at the same rate.
    """
    return class_then_image(outcome, weights, kind="iou", background=True, over="union")


def nearest_pixels(masks: Masks, size: int = SIZE) -> Masks:
    """uint8 [..., H, W] -> [..., size, size], the pixels that torch's `nearest_pixels` takes, as SASVi does.

    Its places are float32, which is one pixel lower in a few rows where the place is a whole number (1040 to 299).
    """
    places = np.arange(size, dtype=np.float32)
    rows, columns = (np.floor(places * (np.float32(n) / np.float32(size))).astype(int) for n in masks.shape[-2:])
    resized: Masks = masks[..., rows, :][..., columns]
    return resized
