"""The references, built from the libraries themselves: PIL + torchvision as DINO uses them, lightly, bare decoding."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.reader import Reader
from trocar.data.media.jpeg_decoder import decode_jpeg
from trocar.diagnostics.bench.recipe import MEAN, STD, scattered


class PilDino:
    """The views of arXiv 2104.14294 in PIL and torchvision: 2 x 224 and 8 x 96."""

    def __init__(self) -> None:
        bicubic = transforms.InterpolationMode.BICUBIC
        jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
        colour = [transforms.RandomHorizontalFlip(0.5), jitter, transforms.RandomGrayscale(0.2)]
        finish = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]

        def view(size: int, scale: tuple[float, float], blur: float, solarize: float) -> Callable[[Any], Tensor]:
            crop = transforms.RandomResizedCrop(size, scale=scale, interpolation=bicubic)
            steps: Callable[[Any], Tensor]
            steps = transforms.Compose([crop, *colour, PilBlur(blur), PilSolarize(solarize), *finish])
            return steps

        first, second = view(224, (0.4, 1.0), 1.0, 0.0), view(224, (0.4, 1.0), 0.1, 0.2)
        self.views = [first, second] + [view(96, (0.05, 0.4), 0.5, 0.0)] * 8

    def __call__(self, image: Image.Image) -> list[Tensor]:
        """The ten views of an image, float32 [3, size, size] each."""
        return [view(image) for view in self.views]


class PilBlur:
    """Gaussian blur with probability p, sigma uniform in 0.1..2."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, or a blurred copy."""
        if random.random() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class PilSolarize:
    """Solarize with probability p."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, or a solarized copy."""
        return ImageOps.solarize(image) if random.random() < self.p else image


class Decoded:
    """JPEG bytes -> uint8[3, H, W], marked as taking bytes rather than an image."""

    takes_bytes = True

    def __call__(self, data: bytes) -> list[Tensor]:
        """One pixel of the decoded picture, so that it was decoded."""
        return [decode_jpeg(data)[:, :1, :1].clone()]  # what comes back from the worker is no part of the limit


class EndlessFrames(Dataset[list[Tensor]]):
    """Frames of a catalog through a transform; as many as anyone asks for, in a fixed pseudo-random order."""

    def __init__(self, catalog: Path, transform: Callable[[Any], list[Tensor]]) -> None:
        self.reader = Reader(Catalog.open(catalog))
        self.rows = len(self.reader.catalog.frames["size"])
        self.transform = transform

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> list[Tensor]:
        data = self.reader.read(scattered(index, self.rows))
        if getattr(self.transform, "takes_bytes", False):
            return self.transform(data)
        return self.transform(Image.open(io.BytesIO(data)).convert("RGB"))  # noqa: TID251  as DINO does


def data_loader(
    catalog: Path, transform: Callable[[Any], list[Tensor]], workers: int, batch: int, device: str
) -> Iterator[int]:
    """Sizes of the batches that a plain DataLoader delivers, copied to `device` from page-locked memory."""
    loader = DataLoader(
        EndlessFrames(catalog, transform),
        batch_size=batch,
        sampler=range(1 << 30),
        num_workers=workers,
        worker_init_fn=_one_thread,
        pin_memory=device == "cuda",
        multiprocessing_context="fork" if workers else None,
    )
    for views in loader:
        moved = [view.to(device, non_blocking=True) for view in views]
        yield len(moved[0])


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    random.seed(worker)
