"""A segmenter's masks for arrays of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.backbones.device import Halves, Precision, autocast
from trocar.backbones.embed import prediction_batch
from trocar.backbones.preprocess import describe_backbone
from trocar.data.loading.prefetch import in_thread, pinned, sent_ahead
from trocar.downstream.metrics.segmentation_outcome import confusions
from trocar.downstream.segmentation.segmenter import Segmenter
from trocar.downstream.training.batches import Bytes, Stack
from trocar.errors import TrocarError


def predict_masks(
    model: Segmenter,
    images: Stack,
    sizes: Iterable[tuple[int, int]],
    *,
    batch: int = 16,
    device: str = "cpu",
    precision: Precision = "float32",
) -> Iterator[Bytes]:
    """uint8 [n, H, W, 3] of the model's size (may be memory-mapped) -> a mask uint8 [h, w] of class indices after
    another, each at its own of the `sizes`, which are asked for one at a time.

    Logits are resized before the argmax, not masks after it: edges stay smooth at the native size. The model is put
    into eval mode and moved to `device`. Raises TrocarError for images of another size, and as `logit_batches`.
    """
    wanted = iter(sizes)
    for logits in logit_batches(model, images, batch=batch, device=device, precision=precision):
        for one in logits:
            yield class_map(resized(one[None], next(wanted)))[0].cpu().numpy()


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
    size, start = (masks.shape[1], masks.shape[2]), 0
    found = []
    for logits in logit_batches(model, images, batch=batch, device=device, precision=precision):
        truth = masks[start : start + len(logits)]
        found.append(confusions(truth, class_map(resized(logits, size)).cpu().numpy(), logits.shape[1]))
        start += len(logits)
    return np.concatenate(found)


def logit_batches(
    model: Segmenter, images: Stack, *, batch: int, device: str, precision: Precision = "float32"
) -> Iterator[Tensor]:
    """Logits float32 [b, K, H, W] of the images in their order, on `device`. The next images are read and copied while
    the network computes; a GPU takes more than `batch` at a time, as many as fit.

    Raises TrocarError for logits that are not finite.
    """
    require_size(images, model.size)
    model, where = model.eval().to(device), torch.device(device)
    at_once, halves = prediction_batch(batch, device), Halves(where, where.type == "cuda")

    def read() -> Iterator[Tensor]:
        for start in range(0, len(images), at_once):
            yield pinned(to_tensor(images[start : start + at_once]), where)

    @torch.inference_mode()
    def compute(pixels: Tensor) -> Tensor:
        return logits_of(model, pixels, precision)

    for _, (pixels,) in sent_ahead(((None, [part]) for part in in_thread(read)), where):
        for logits in halves(compute, pixels):
            if not torch.isfinite(logits).all():  # its argmax would be the first class, everywhere
                raise TrocarError(
                    "the segmenter's logits are NaN or infinite; a training that diverged needs a smaller lr"
                )
            yield logits


def logits_of(model: Segmenter, pixels: Tensor, precision: Precision) -> Tensor:
    """uint8 [b, 3, H, W] -> logits float32 [b, K, H, W], on the device of both."""
    with autocast(pixels.device, precision):
        logits: Tensor = model(describe_backbone(model.backbone).normalise(pixels))
    return logits


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """float [b, K, H, W] -> the same of `size` (height, width)."""
    same = tuple(logits.shape[-2:]) == size
    return logits if same else F.interpolate(logits, size, mode="bilinear", align_corners=False)


def class_map(logits: Tensor) -> Tensor:
    """float [b, K, ...] -> uint8 [b, ...], the same as `logits.argmax(1)`: of equal logits the first class wins, and a
    NaN is larger than any number.

    torch's `max` keeps a running maximum and its index, where `argmax` goes through a general reduction over channels
    that lie far apart in memory and takes several times as long (`benchmarks/class_map.py`).
    """
    return logits.max(1).indices.to(torch.uint8)


def to_tensor(images: Bytes) -> Tensor:
    """uint8 [b, H, W, 3], copied out of a memory map if it is one, -> uint8 [b, 3, H, W]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()


def require_size(images: Stack, size: tuple[int, int]) -> None:
    """Raises TrocarError unless `images` is [n, H, W, ...] of `size` with n > 0."""
    if len(images) == 0 or images.shape[1:3] != size:
        raise TrocarError(
            f"images have the shape {tuple(images.shape)}; the segmenter was built for {size[0]} x {size[1]} px: resize"
            " them or build it for their size"
        )
