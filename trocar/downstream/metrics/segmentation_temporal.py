"""Temporal consistency of predicted masks: how much they change from one frame to the next. Needs no ground truth.

The variants that follow the motion first (optical flow) need a flow network's weights and are not here.
"""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.metrics.segmentation import class_then_image
from trocar.downstream.metrics.segmentation_outcome import Masks, SegmentationOutcome, confusions
from trocar.errors import TrocarError

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
    used = masks if size is None else nearest(masks, size)
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


def nearest(masks: Masks, size: int = SIZE) -> Masks:
    """uint8 [..., H, W] -> [..., size, size], the pixels that torch's `nearest` takes, as SASVi does.

    Its places are float32, which is one pixel lower in a few rows where the place is a whole number (1040 to 299).
    """
    places = np.arange(size, dtype=np.float32)
    rows, columns = (np.floor(places * (np.float32(n) / np.float32(size))).astype(int) for n in masks.shape[-2:])
    resized: Masks = masks[..., rows, :][..., columns]
    return resized
