"""Images and masks to learn from: read where they are indexed, and changed alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

Bytes = npt.NDArray[np.uint8]


class Stack(Protocol):
    """uint8 [n, H, W, ...]: an array, a memory map, or a choice of rows of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Bytes:
        """A slice or indices along the first axis."""


@dataclass(frozen=True)
class Picked:
    """The `rows` int64 [n] of a larger array, in their order."""

    array: Bytes
    rows: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, H, W, ...]."""
        return (len(self.rows), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> Bytes:
        return np.asarray(self.array[self.rows[rows]])


LabelledImages = tuple[Stack, Stack]
"""Images uint8 [n, H, W, 3] and masks uint8 [n, H, W] of class indices or 255."""


def joint_augmentation(size: tuple[int, int]) -> v2.Transform:
    """Crop of 60 to 100 % of the area resized to `size`, flip, colour.

    The crop's aspect ratio is 3/4 to 4/3 of that of `size`: of wide images, a crop near a square would always be
    stretched, and no test image is. Its area is EndoViT's (RandomResizedCrop 0.6 to 1); flips are left and right, with
    probability 1/2; brightness, contrast and saturation change by up to 20 %, hue by up to 2 % of the circle, because
    colour tells tissues apart. Masks are resized to the nearest pixel, so no label is made up.
    """
    aspect = size[1] / size[0]
    return v2.Compose(
        [
            v2.RandomResizedCrop(list(size), scale=(0.6, 1.0), ratio=(0.75 * aspect, aspect / 0.75), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
        ]
    )


def augment(images: Tensor, masks: Tensor, transform: v2.Transform, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 [b, 3, H, W] and uint8 [b, H, W] -> the same shapes, each pair changed by its own draw.

    The draws follow from `seed` alone, on every device; torch's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        pairs = [transform(tv_tensors.Image(i), tv_tensors.Mask(m)) for i, m in zip(images, masks, strict=True)]
    return torch.stack([i.as_subclass(Tensor) for i, _ in pairs]), torch.stack(
        [m.as_subclass(Tensor) for _, m in pairs]
    )
