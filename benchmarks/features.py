"""What frozen features cost beside the bare network, and how long a second probe waits before it trains; two tables.

    python benchmarks/features.py [--frames 96] [--pairs 5] [--size 224] [--probe 20000]

Extraction: `extract` of memory-mapped pixels against the network on one normalised batch of the same size that is in
memory already, again and again; in turns, the order changing from pair to pair; medians of the pairs' ratios, by
the clock and by the CPU time of the process.

Second probe: a data set of `--probe` frames and a cache that holds its features (random numbers: nothing is extracted)
stand in a temporary folder; timed is `evaluate` from its call to the first fit, without the import of torch.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from torch import nn

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import describe_backbone, fit_input_size
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.evaluation.evaluate import evaluate
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.features.feature_cache import extract, features_path
from trocar.downstream.features.frame_cache import FrameCache, Pixels
from trocar.downstream.protocols.base import PROTOCOLS, Prediction, Problem, Protocol
from trocar.leakage import judge

BATCH = 32
SIZE = 224  # of both networks: what an evaluation takes without a word
ARCHITECTURES = ("resnet50", "vit_small_patch16_224")


class ReachedError(Exception):
    """The first fit would begin now."""


class Stop(Protocol):
    """A probe that gets its features, then ends the evaluation instead of training."""

    name: Literal["stop"] = "stop"

    def predict(self, problem: Problem) -> Prediction:
        problem.features(problem.train)
        raise ReachedError


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and CPU seconds of this process: on a busy machine the clock counts the others too."""

    wall: float
    cpu: float


class Stopwatch:
    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> Cost:
        return Cost(time.perf_counter() - self.wall, time.process_time() - self.cpu)


@torch.inference_mode()
def bare(model: nn.Module, images: torch.Tensor, batches: int) -> Cost:
    watch = Stopwatch()
    for _ in range(batches):
        model(images)
    return watch.stop()


def ours(model: nn.Module, pixels: Pixels) -> Cost:
    watch = Stopwatch()
    extract(model, pixels, describe_backbone(model), batch=BATCH)
    return watch.stop()


def throughput(name: str, size: int, frames: int, pairs: int, folder: Path) -> list[float]:
    """Medians over the pairs: frames/s of the bare network and of `extract`, ratio by the clock, ratio of CPU time."""
    model = fit_input_size(load_backbone(f"random:{name}"), size).eval()
    path = folder / f"{size}.npy"
    written = open_memmap(path, mode="w+", dtype=np.uint8, shape=(frames, size, size, 3))
    written[:] = np.random.default_rng(0).integers(0, 256, written.shape, dtype=np.uint8)
    pixels = np.load(path, mmap_mode="r")
    batch = torch.from_numpy(np.array(pixels[:BATCH])).permute(0, 3, 1, 2)
    images = describe_backbone(model).normalise(batch)
    bare(model, images, 1)
    found = []
    for pair in range(pairs):
        if pair % 2:
            mine, plain = ours(model, pixels), bare(model, images, frames // BATCH)
        else:
            plain, mine = bare(model, images, frames // BATCH), ours(model, pixels)
        found.append((frames / plain.wall, frames / mine.wall, plain.wall / mine.wall, plain.cpu / mine.cpu))
    return [statistics.median(values) for values in zip(*found, strict=True)]


def make_probe(root: Path, frames: int, names: list[str]) -> None:
    """A labelled folder whose features are in the cache; one picture under many names is enough."""
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "one.png")
    rows = [{"path": f"images/{i}.png", "case": i * 40 // frames, "phase": i % 7} for i in range(frames)]
    for row in rows:
        (root / str(row["path"])).hardlink_to(root / "one.png")
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
    cache = FrameCache(open_dataset(root, None, DatasetOptions()), root / "cache")
    cache.folder.mkdir()
    for side in (32, SIZE):
        open_memmap(cache.path(side), mode="w+", dtype=np.uint8, shape=(frames, side, side, 3))
    for name in names:
        model = load_backbone(f"random:{name}")
        save_backbone(model, root / name, extra={})
        features = np.random.default_rng(0).standard_normal((frames, model.num_features), dtype=np.float32)
        np.save(features_path(model, cache, SIZE), features)


def second_probe(name: str, root: Path) -> Cost:
    config = EvaluateConfig(backbone=[str(root / name)], data=root, protocol=["stop"], folds=5, cache=root / "cache")
    watch = Stopwatch()
    try:
        evaluate(config, judge)
    except ReachedError:
        return watch.stop()
    raise AssertionError("the evaluation ended before its first fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--probe", type=int, default=20_000)
    args = parser.parse_args()
    frames = args.frames // BATCH * BATCH
    with tempfile.TemporaryDirectory() as folder:
        print(f"| {args.size} px, batch {BATCH} | bare, frames/s | extract, frames/s | ratio | by CPU time |")
        print("|---|---|---|---|---|")
        for name in ARCHITECTURES:
            plain, mine, ratio, cpu = throughput(name, args.size, frames, args.pairs, Path(folder))
            print(f"| {name} | {plain:.1f} | {mine:.1f} | {ratio:.2f} | {cpu:.2f} |", flush=True)
        PROTOCOLS.register(Stop)
        make_probe(Path(folder) / "probe", args.probe, list(ARCHITECTURES))
        print(f"\n| {args.probe} frames, features in the cache | s to the first fit | CPU s |\n|---|---|---|")
        for name in ARCHITECTURES:
            times = [second_probe(name, Path(folder) / "probe") for _ in range(args.pairs)]
            wall, cpu = (statistics.median(values) for values in zip(*((t.wall, t.cpu) for t in times), strict=True))
            print(f"| {name} | {wall:.2f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()
