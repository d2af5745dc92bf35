"""Pixels of rows -> normalised images, plain or augmented, with masks that are changed alike.

On a CPU a thread crops the next batches beside the network; where a GPU trains, that is the work of processes.

Batches of an epoch, made by worker processes for a GPU that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trocar.backbones.preprocess import Preprocessing
from trocar.core.config import Config
from trocar.data.loading.prefetch import in_thread, pinned, sent_ahead
from trocar.data.loading.steps import crop_resize
from trocar.data.loading.workers import Patience, from_workers, worker_count
from trocar.data.views.augment import augment
from trocar.data.views.recipe import Jitter, ViewGroup, ViewParams, ViewPlan, ViewRecipe
from trocar.downstream.labels import IGNORED_PIXEL
from trocar.downstream.metrics.outcome import Ints

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
    rows: Ints

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


class Augmentation(Config):
    """What a training frame goes through.

    The crop is EndoViT's (0.6 to 1). The colour of tissue carries meaning, hence the small changes of hue.
    """

    scale: tuple[float, float] = Field(
        default=(0.6, 1.0), description="share of the frame's area that a crop covers, lowest and highest"
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3),
        description="width by height of a crop relative to those of the frame, lowest and highest",
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip, 0 to 1")
    jitter: Jitter = Field(
        default=Jitter(p=0.8, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
        description="change of brightness, contrast, saturation and hue",
    )

    def recipe(self, height: int, width: int) -> ViewRecipe:
        """One view of these pixels, without grey and blur. `ratio` is relative to that of the frame: of wide ones, a
        crop near a square would always be stretched, and no test frame is.
        """
        low, high = (edge * (width / height) for edge in self.ratio)
        changes = {"scale": self.scale, "ratio": (low, high), "flip": self.flip, "jitter": self.jitter}
        group = ViewGroup(count=1, size=height, grey=0, blur=0, **changes)
        return ViewRecipe(groups={"view": group})


@dataclass(frozen=True)
class Cut:
    """`images` uint8 [b, 3, H, W]; `params` of the views, None where nothing is changed. `masks` uint8 [b, H, W] are
    cut and flipped already; `labelled` says whether any of their pixels has a label.
    """

    images: Tensor
    params: ViewParams | None
    masks: Tensor | None = None
    labelled: bool = True

    def tensors(self) -> list[Tensor]:
        """What goes to the device."""
        return [self.images] if self.masks is None else [self.images, self.masks]

    def of(self, tensors: Sequence[Tensor]) -> Cut:
        """With these in the place of `tensors()`."""
        return replace(self, images=tensors[0], masks=tensors[1] if len(tensors) > 1 else None)

    def pin_memory(self) -> Cut:
        """With the tensors where a GPU copies them from by itself."""
        return self.of([tensor.pin_memory() for tensor in self.tensors()])


class NetworkImages:
    """Frames as a network takes them, uint8 [N, H, W, 3], and their masks [N, H, W], if there are any. What happens to
    a frame follows from (seed, epoch, row).

    `workers`: processes that read and crop for a GPU (None: what the machine has; 0: a thread, as on a CPU).
    """

    def __init__(
        self,
        pixels: Stack,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        seed: int,
        device: str,
        workers: int | None = None,
        masks: Stack | None = None,
    ) -> None:
        self.pixels, self.masks, self.preprocessing, self.device = pixels, masks, preprocessing, device
        self.workers = workers
        self.size = (pixels.shape[1], pixels.shape[2])
        self.plan = None if augmentation is None else ViewPlan(augmentation.recipe(*self.size), seed)

    def batches(self, parts: Sequence[Ints], epoch: int | None) -> Iterator[tuple[Ints, Cut]]:
        """(rows, their frames on the device) of one part after another, each made ahead of its use."""
        device = torch.device(self.device)
        cuts = self._by_workers(parts, epoch) if device.type == "cuda" else None
        if cuts is None:
            cuts = in_thread(lambda: (self._pinned(self.cut(rows, epoch), device) for rows in parts))
        numbered = (((rows, cut), cut.tensors()) for rows, cut in zip(parts, cuts, strict=True))
        for (rows, cut), tensors in sent_ahead(numbered, device):
            yield rows, cut.of(tensors)

    def _by_workers(self, parts: Sequence[Ints], epoch: int | None, pin: bool = True) -> Iterator[Cut] | None:
        """None where processes would not pay."""
        frame = sum(int(np.prod(stack.shape[1:])) for stack in (self.pixels, self.masks) if stack is not None)
        size = max((len(rows) for rows in parts), default=0) * frame
        workers = worker_count(self.workers, size, len(parts))
        make = partial(self._cut_part, parts, epoch)
        return prepared(make, len(parts), workers, pin=pin) if workers else None

    def _cut_part(self, parts: Sequence[Ints], epoch: int | None, number: int) -> Cut:
        return self.cut(parts[number], epoch)

    @staticmethod
    def _pinned(cut: Cut, device: torch.device) -> Cut:
        return cut.of([pinned(tensor, device) for tensor in cut.tensors()])

    def cut(self, rows: Ints, epoch: int | None) -> Cut:
        """The part that is done beside the network, on the host: read and crop. No epoch: as they are."""
        images = torch.from_numpy(np.asarray(self.pixels[rows])).permute(0, 3, 1, 2)
        masks = None if self.masks is None else torch.from_numpy(np.asarray(self.masks[rows]))
        params = None
        if self.plan is not None and epoch is not None:
            height, width = (np.full(len(rows), side) for side in self.size)
            params = self.plan.params(epoch, rows, width, height)
            boxes: list[Any] = params.boxes[:, 0].tolist()
            images = torch.stack([crop_resize(x, box, self.size) for x, box in zip(images, boxes, strict=True)])
            if masks is not None:
                masks = torch.stack([crop_mask(x, box, self.size) for x, box in zip(masks, boxes, strict=True)])
                flipped = torch.from_numpy(params.flip[:, 0])[:, None, None]
                masks = torch.where(flipped, masks.flip(-1), masks)
        return Cut(images, params, masks, masks is None or bool((masks != IGNORED_PIXEL).any()))

    def finish(self, cut: Cut) -> Tensor:
        """Flip, colour and normalise on the device: float32 [b, 3, H, W]."""
        images = cut.images.to(self.device, non_blocking=True)
        if self.plan is None or cut.params is None:
            return self.preprocessing.normalise(images)
        mean, std = self.preprocessing.mean, self.preprocessing.std
        return augment({"view": images[:, None]}, cut.params, self.plan.recipe, mean, std)["view"][:, 0]


def crop_mask(mask: Tensor, box: Sequence[int], size: tuple[int, int]) -> Tensor:
    """uint8 [H, W] and (top, left, height, width) -> uint8 of `size`, the nearest pixels: no label is made up."""
    top, left, height, width = box
    region = mask[None, None, top : top + height, left : left + width]
    return F.interpolate(region, size=size, mode="nearest-exact")[0, 0]


Item = TypeVar("Item")


def prepared(
    make: Callable[[int], Item], batches: int, workers: int, *, pin: bool = True
) -> Generator[Item, None, None]:
    """make(0), make(1), ... in order, in pinned memory. Nothing depends on the number of processes, torch's random
    numbers here neither: dropout takes them. Raises TrocarError as `from_workers`.
    """
    return from_workers(
        make,
        range(batches),
        workers,
        pin=pin,
        patience=Patience(0, 0, None),
        if_it_dies="Lower workers, the number of processes that prepare frames; 0 is none",
        generator=torch.Generator(),
    )
