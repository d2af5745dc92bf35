"""`trocar bench loader`: DINO's views per second from the same frames, ours against named references."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from trocar.core.messages import Say
from trocar.data.loading.loader import Backend
from trocar.diagnostics.bench.process import fresh
from trocar.diagnostics.bench.report import BenchComparison, Trial

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
    from trocar.diagnostics.bench.loader_contenders import our_batches

    made = our_batches(backend, Path(catalog), workers, batch, device)
    return timed((len(b.rows) for b in made), seconds, device)


def pil_torchvision(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """PIL and torchvision as DINO's reference code uses them."""
    from trocar.diagnostics.bench.loader_contenders import PilDino, data_loader

    return timed(data_loader(Path(catalog), PilDino(), workers, batch, device), seconds, device)


def lightly_transform(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """lightly's DINOTransform at the same sizes."""
    from lightly.transforms.dino_transform import DINOTransform

    from trocar.diagnostics.bench.loader_contenders import data_loader

    transform = cast(Any, DINOTransform(n_local_views=8))
    return timed(data_loader(Path(catalog), transform, workers, batch, device), seconds, device)


def dali_graph(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """Decode, crops and colours all as DALI operators; on a GPU with nvJPEG."""
    from trocar.diagnostics.bench.loader_contenders import dali_batches

    return timed(dali_batches(Path(catalog), workers, batch, device), seconds, device)


def decode_only(catalog: str, workers: int, batch: int, seconds: float, device: str) -> dict[str, float]:
    """The JPEG decoder and nothing else: no loader that decodes on CPU can be faster."""
    from trocar.diagnostics.bench.loader_contenders import Decoded, data_loader

    return timed(data_loader(Path(catalog), Decoded(), workers, batch, "cpu"), seconds, "cpu")
