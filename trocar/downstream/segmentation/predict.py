"""A segmenter's masks for arrays of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.backbones.device import Precision, autocast
from trocar.backbones.preprocess import describe_backbone
from trocar.downstream.metrics.segmentation_outcome import confusions
from trocar.downstream.segmentation.segmenter import Segmenter
from trocar.downstream.segmentation.training_pictures import Bytes, Stack
from trocar.errors import TrocarError


@dataclass(frozen=True)
class Predicted:
    """`masks` uint8 [n, h, w] of class indices; `probabilities` float16 [n, K, h, w], softmax, if asked for."""

    masks: Bytes
    probabilities: npt.NDArray[np.float16] | None


def predict(
    model: Segmenter,
    images: Stack,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 16,
    device: str = "cpu",
    precision: Precision = "float32",
    probabilities: bool = False,
) -> Predicted:
    """uint8 [n, H, W, 3] of the model's size (may be memory-mapped) -> masks of `size` (None: the images').

    Logits are resized before the argmax, not masks after it: edges stay smooth at the native size. The model is put
    into eval mode and moved to `device`. Raises TrocarError for images of another size.
    """
    masks, soft = [], []
    for _, logits in logit_batches(model, images, size=size, batch=batch, device=device, precision=precision):
        masks.append(class_map(logits).cpu().numpy())
        if probabilities:
            soft.append(logits.softmax(1).half().cpu().numpy())
    return Predicted(np.concatenate(masks), np.concatenate(soft) if probabilities else None)


def predicted_confusions(
    model: Segmenter,
    images: Stack,
    masks: Stack,
    *,
    batch: int = 16,
    device: str = "cpu",
    precision: Precision = "float32",
) -> npt.NDArray[np.int64]:
    """Confusions int64 [n, K, K] of the predictions for `images` at the size of `masks` (uint8 [n, h, w]).

    The predicted masks are never all in memory.
    """
    size = (masks.shape[1], masks.shape[2])
    found = []
    for rows, logits in logit_batches(model, images, size=size, batch=batch, device=device, precision=precision):
        found.append(confusions(masks[rows], class_map(logits).cpu().numpy(), logits.shape[1]))
    return np.concatenate(found)


def logit_batches(
    model: Segmenter,
    images: Stack,
    *,
    size: tuple[int, int] | None,
    batch: int,
    device: str,
    precision: Precision = "float32",
) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their logits float32 [b, K, h, w] on `device`, one batch after another.

    Raises TrocarError for logits that are not finite.
    """
    require_size(images, model.size)
    model = model.eval().to(device)
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        with torch.inference_mode():
            logits = logits_of(model, to_tensor(images[rows], device), precision)
            if not torch.isfinite(logits).all():  # its argmax would be the first class, everywhere
                raise TrocarError(
                    "the segmenter's logits are NaN or infinite; a training that diverged needs a smaller lr"
                )
            if size is not None and size != model.size:
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        yield rows, logits


def logits_of(model: Segmenter, pixels: Tensor, precision: Precision) -> Tensor:
    """uint8 [b, 3, H, W] -> logits float32 [b, K, H, W], on the device of both."""
    with autocast(pixels.device, precision):
        logits: Tensor = model(describe_backbone(model.backbone).normalise(pixels))
    return logits


def class_map(logits: Tensor) -> Tensor:
    """float [b, K, ...] -> uint8 [b, ...], the same as `logits.argmax(1)`: of equal logits the first class wins, and a
    NaN is larger than any number.

    torch's `max` keeps a running maximum and its index, where `argmax` goes through a general reduction over channels
    that lie far apart in memory and takes several times as long (`benchmarks/class_map.py`).
    """
    return logits.max(1).indices.to(torch.uint8)


def to_tensor(images: Bytes, device: str) -> Tensor:
    """uint8 [b, H, W, 3], copied out of a memory map if it is one, -> uint8 [b, 3, H, W] on `device`."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).contiguous()


def require_size(images: Stack, size: tuple[int, int]) -> None:
    """Raises TrocarError unless `images` is [n, H, W, ...] of `size` with n > 0."""
    if len(images) == 0 or images.shape[1:3] != size:
        raise TrocarError(
            f"images have the shape {tuple(images.shape)}; the segmenter was built for {size[0]} x {size[1]} px: resize"
            " them or build it for their size"
        )
