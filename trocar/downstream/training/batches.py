"""Pixels of rows -> normalised images, plain or augmented; and the order of an epoch.

On a CPU a thread crops the next batches beside the network; where a GPU trains, that is the work of processes.

Batches of an epoch, made by worker processes for a GPU that trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from trocar.backbones.preprocess import Preprocessing
from trocar.core.config import Config
from trocar.core.random import Permutation
from trocar.data.loading.cuda_stream import pinned, sent_ahead
from trocar.data.loading.prefetch import in_thread
from trocar.data.loading.torch_backend import crop_resize
from trocar.data.loading.workers import Patience, from_workers, worker_count
from trocar.data.views.augment import augment
from trocar.data.views.recipe import Jitter, ViewGroup, ViewParams, ViewPlan, ViewRecipe
from trocar.downstream.features.frame_cache import Pixels
from trocar.downstream.metrics.outcome import Ints


class Augmentation(Config):
    """What a training frame goes through.

    The crop is EndoViT's (0.6 to 1). The colour of tissue carries meaning, hence the small changes of hue.
    """

    scale: tuple[float, float] = Field(
        default=(0.6, 1.0), description="share of the frame's area that a crop covers, lowest and highest"
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="width by height of a crop, lowest and highest"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip, 0 to 1")
    jitter: Jitter = Field(
        default=Jitter(p=0.8, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
        description="change of brightness, contrast, saturation and hue",
    )

    def recipe(self, size: int) -> ViewRecipe:
        """One view of `size` pixels, without grey and blur."""
        group = ViewGroup(
            count=1, size=size, scale=self.scale, ratio=self.ratio, flip=self.flip, jitter=self.jitter, grey=0, blur=0
        )
        return ViewRecipe(groups={"view": group})


@dataclass(frozen=True)
class Cut:
    """uint8 [b, 3, S, S]; `params` of the views, None where nothing is changed."""

    images: Tensor
    params: ViewParams | None

    def pin_memory(self) -> Cut:
        """With the images where a GPU copies them from by itself."""
        return replace(self, images=self.images.pin_memory())


class NetworkImages:
    """The frames of a data set as a network takes them. What happens to a frame follows from (seed, epoch, row).

    `workers`: processes that read and crop for a GPU (None: what the machine has; 0: a thread, as on a CPU).
    """

    def __init__(
        self,
        pixels: Pixels,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        seed: int,
        device: str,
        workers: int | None = None,
    ) -> None:
        self.pixels, self.preprocessing, self.device = pixels, preprocessing, device
        self.workers = workers
        self.plan = ViewPlan(augmentation.recipe(pixels.shape[1]), seed) if augmentation is not None else None

    def batches(self, parts: Sequence[Ints], epoch: int | None) -> Iterator[tuple[Ints, Cut]]:
        """(rows, their frames on the device) of one part after another, each made ahead of its use."""
        device = torch.device(self.device)
        cuts = self._by_workers(parts, epoch) if device.type == "cuda" else None
        if cuts is None:
            cuts = in_thread(lambda: (self._pinned(self.cut(rows, epoch), device) for rows in parts))
        numbered = (((rows, cut.params), [cut.images]) for rows, cut in zip(parts, cuts, strict=True))
        for (rows, params), (images,) in sent_ahead(numbered, device):
            yield rows, Cut(images, params)

    def _by_workers(self, parts: Sequence[Ints], epoch: int | None, pin: bool = True) -> Iterator[Cut] | None:
        """None where processes would not pay."""
        size = max((len(rows) for rows in parts), default=0) * int(np.prod(self.pixels.shape[1:]))
        workers = worker_count(self.workers, size, len(parts))
        make = partial(self._cut_part, parts, epoch)
        return prepared(make, len(parts), workers, pin=pin) if workers else None

    def _cut_part(self, parts: Sequence[Ints], epoch: int | None, number: int) -> Cut:
        return self.cut(parts[number], epoch)

    @staticmethod
    def _pinned(cut: Cut, device: torch.device) -> Cut:
        return replace(cut, images=pinned(cut.images, device))

    def cut(self, rows: Ints, epoch: int | None) -> Cut:
        """The part that is done beside the network, on the host: read and crop. No epoch: as they are."""
        images = torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2)
        if self.plan is None or epoch is None:
            return Cut(images, None)
        side = np.full(len(rows), images.shape[-1])
        params = self.plan.params(epoch, rows, side, side)
        boxes = params.boxes[:, 0].tolist()
        crops = [crop_resize(image, tuple(box), images.shape[-1]) for image, box in zip(images, boxes, strict=True)]
        return Cut(torch.stack(crops), params)

    def finish(self, cut: Cut) -> Tensor:
        """Flip, colour and normalise on the device: float32 [b, 3, S, S]."""
        images = cut.images.to(self.device, non_blocking=True)
        if self.plan is None or cut.params is None:
            return self.preprocessing.normalise(images)
        mean, std = self.preprocessing.mean, self.preprocessing.std
        return augment({"view": images[:, None]}, cut.params, self.plan.recipe, mean, std)["view"][:, 0]


def epoch_batches(rows: Ints, batch: int, seed: int, epoch: int) -> list[Ints]:
    """Every row once, in batches that differ by at most one row: no batch norm over a small rest.

    Which rows meet follows from (seed, epoch); inside a batch they rise, as they lie in the file.
    """
    order = Permutation(len(rows), seed, "finetune", epoch)(np.arange(len(rows)))
    return [np.sort(part) for part in np.array_split(rows[order], math.ceil(len(rows) / batch))]


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
