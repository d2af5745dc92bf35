"""`trocar bench loader`: DINO's views per second from the same frames, ours against named references.

The references are built from the libraries themselves: PIL and torchvision as DINO uses them, lightly, bare decoding,
and the whole of DINO's augmentation as a DALI graph, random operators and all: what DALI alone would do.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.batch import Batch
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.loading.steps import decode_jpeg
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe
from trocar.diagnostics.bench.report import BenchComparison, Trial
from trocar.diagnostics.bench.timed import fresh

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DINO = ViewRecipe(
    groups={
        "global": ViewGroup(count=2, size=224, scale=(0.4, 1.0), blur=[1.0, 0.1], solarize=[0.0, 0.2]),
        "local": ViewGroup(count=8, size=96, scale=(0.05, 0.4), blur=0.5),
    }
)
"""The defaults of DINO's reference code. Its command for a ResNet-50 parts the crops at 0.14 of the area."""


def scattered(index: int, rows: int) -> int:
    """The row that a reference reads as its `index`-th: all over the catalog, the same in every trial."""
    return (index * 7919) % rows  # a prime


def our_batches(backend: Backend, catalog: Path, workers: int, batch: int, device: str = "cpu") -> Iterator[Batch]:
    """Batches of our loader without end, every frame of the catalog in the composition."""
    opened = Catalog.open(catalog)
    selection = Composition(curate="none").resolve(opened)
    plan, views, reader = Plan(selection, batch, 0), ViewPlan(DINO, 0), Reader(opened)
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)
    loader = Loader(plan, views, reader, MEAN, STD, workers=workers, backend=backend, device=where)
    return loader.iterate(0, 1 << 30)


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


def dali_batches(catalog: Path, threads: int, batch: int, device: str) -> Iterator[int]:
    """Sizes of the batches; decoded once per frame, then ten crops. On a GPU nvJPEG decodes."""
    dali = importlib.import_module("nvidia.dali")
    fn, types = dali.fn, dali.types
    reader = Reader(Catalog.open(catalog))
    rows = len(reader.catalog.frames["size"])

    def read(info: Any) -> Any:
        return np.frombuffer(reader.read(scattered(info.idx_in_epoch, rows)), np.uint8)

    def graph() -> Any:
        jpeg = fn.external_source(source=read, batch=False, dtype=types.UINT8, ndim=1)
        decoder = "mixed" if device == "cuda" else "cpu"
        image = fn.decoders.image(jpeg, device=decoder, output_type=types.RGB, adjust_orientation=False)
        views = []
        for group in DINO.groups.values():
            views += [_view(image, group, view) for view in range(group.count)]
        return tuple(views)

    number = 0 if device == "cuda" else None
    made = dali.pipeline_def(batch_size=batch, num_threads=threads, device_id=number, enable_conditionals=True, seed=0)
    pipe = made(graph)()
    pipe.build()
    while True:
        pipe.run()
        yield batch


def _view(image: Any, group: ViewGroup, view: int) -> Any:
    dali = importlib.import_module("nvidia.dali")  # which is only there where somebody installed it
    fn, types = dali.fn, dali.types

    def coin(p: float) -> Any:
        return fn.random.coin_flip(probability=p, dtype=types.BOOL)

    def near_one(spread: float) -> Any:
        return fn.random.uniform(range=(1 - spread, 1 + spread))

    x = fn.random_resized_crop(
        image,
        size=group.size,
        random_area=list(group.scale),
        random_aspect_ratio=list(group.ratio),
        interp_type={"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}[group.interpolation],
        antialias=True,
    )
    jitter = group.jitter
    if coin(jitter.p):
        turn = fn.random.uniform(range=(-360 * jitter.hue, 360 * jitter.hue))
        x = fn.color_twist(
            x,
            brightness=near_one(jitter.brightness),
            contrast=near_one(jitter.contrast),
            saturation=near_one(jitter.saturation),
            hue=turn,
        )
    if coin(group.per_view("grey")[view]):
        x = fn.hsv(x, saturation=0.0)
    if coin(group.per_view("blur")[view]):
        x = fn.gaussian_blur(x, sigma=fn.random.uniform(range=group.sigma))
    if coin(group.per_view("solarize")[view]):
        mask = x >= np.uint8(128)
        x = fn.cast(mask * (np.uint8(255) - x) + (True ^ mask) * x, dtype=types.UINT8)
    return fn.crop_mirror_normalize(
        x,
        dtype=types.FLOAT,
        output_layout="CHW",
        mirror=fn.random.coin_flip(probability=group.flip),
        mean=[255 * m for m in MEAN],
        std=[255 * s for s in STD],
    )


REFERENCE = "DINO, PIL + torchvision"
WARM_UP = 3  # batches that nobody times: workers start, buffers fill


def measure(
    catalog: Path,
    workers: int,
    batch: int,
    seconds: float,
    repeats: int,
    say: Say,
    device: str = "cpu",
) -> BenchComparison:
    """Run every contender `repeats` times in turn, each in a fresh process, for `seconds` after a warm-up."""
    settings = {"catalog": str(catalog), "workers": workers, "batch": batch, "seconds": seconds, "device": device}
    trials = []
    for repeat in range(repeats):
        for name, function in contenders(device).items():
            # With one thread per worker; only DALI has threads instead of worker processes.
            found = fresh(f"trocar.diagnostics.bench.loader:{function}", settings, threads=1)
            trials.append(Trial(name, repeat, found["images"], found["seconds"]))
            say(f"repeat {repeat + 1} of {repeats}: {name}: {trials[-1].rate:.1f} images/s")
    title = f"2 x 224 + 8 x 96 views, batches of {batch}, {workers} workers, views on the {_place(device)}"
    return BenchComparison(title, "images/s", REFERENCE, tuple(trials), settings)


def contenders(device: str = "cpu") -> dict[str, str]:
    """Name -> function of this module; DALI's only where it is installed."""
    found = {"trocar, torch": "ours_torch"}
    dali = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    if dali:
        found[f"trocar, DALI on {_place(device)}"] = "ours_dali"
    found |= {REFERENCE: "pil_torchvision", "lightly DINOTransform": "lightly_transform"}
    if dali:
        found[f"whole graph in DALI on {_place(device)}"] = "dali_graph"
    return {**found, "limit: JPEG decode alone": "decode_only"}


def _place(device: str) -> str:
    return "GPU" if device == "cuda" else "CPU"


def timed(batches: Iterator[int], seconds: float, device: str) -> dict[str, float]:
    """Count images of batches after the warm-up until the time is over and the device has finished them."""
    for _ in range(WARM_UP):
        next(batches)
    finish = _finisher(device)
    finish()
    images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        images += next(batches)
    finish()
    return {"images": images, "seconds": time.perf_counter() - started}


def _finisher(device: str) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def ours_torch(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """Our loader with worker processes."""
    return _ours("torch", catalog, workers, batch, seconds, device)


def ours_dali(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """Our DALI loader with as many threads."""
    return _ours("dali", catalog, workers, batch, seconds, device)


def _ours(backend: Backend, catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:

    made = our_batches(backend, Path(catalog), workers, batch, device)
    return timed((len(b.rows) for b in made), seconds, device)


def pil_torchvision(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """PIL and torchvision as DINO's reference code uses them."""
    return timed(data_loader(Path(catalog), PilDino(), workers, batch, device), seconds, device)


def lightly_transform(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """lightly's DINOTransform at the same sizes."""
    from lightly.transforms.dino_transform import DINOTransform

    transform = cast("Any", DINOTransform(n_local_views=8))
    return timed(data_loader(Path(catalog), transform, workers, batch, device), seconds, device)


def dali_graph(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """Decode, crops and colours all as DALI operators; on a GPU with nvJPEG."""
    return timed(dali_batches(Path(catalog), workers, batch, device), seconds, device)


def decode_only(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """The JPEG decoder and nothing else: no loader that decodes on CPU can be faster."""
    return timed(data_loader(Path(catalog), Decoded(), workers, batch, "cpu"), seconds, "cpu")
