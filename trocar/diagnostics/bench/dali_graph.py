"""The whole of DINO's augmentation as a DALI graph, random operators and all: what DALI alone would do."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.reader import Reader
from trocar.data.views.recipe import ViewGroup
from trocar.diagnostics.bench.recipe import DINO, MEAN, STD, scattered


def batches(catalog: Path, threads: int, batch: int, device: str) -> Iterator[int]:
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
