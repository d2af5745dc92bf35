"""The table of published backbones in docs/backbones.md, with their speed on this CPU as a ratio to ResNet-50's.

    python benchmarks/backbones.py [--repeats 3] [--largest 400] [--threads 2]

Random weights of each architecture at its own input size, batches of 4 in eval mode; every trial of an architecture has
a trial of ResNet-50 at 224 px before it, and the ratio is the median over those pairs. Architectures of more than
`--largest` million parameters are listed without a speed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import nn

from trocar.backbones import load_backbone
from trocar.backbones.preprocess import describe_backbone
from trocar.backbones.published.family import BACKBONES, Published

BATCH = 4
REFERENCE = "resnet50"


@torch.inference_mode()
def seconds(model: nn.Module, images: torch.Tensor) -> float:
    started = time.perf_counter()
    model(images)
    return time.perf_counter() - started


def images_for(model: nn.Module) -> torch.Tensor:
    height, width = describe_backbone(model).size
    return torch.randn(BATCH, 3, height, width, generator=torch.Generator().manual_seed(0))


def measure(name: str, reference: nn.Module, repeats: int, largest: float) -> tuple[float, str, float | None]:
    """(million parameters, input size, speed relative to the reference) of a published name with random weights."""
    with torch.device("meta"):
        count = sum(p.numel() for p in load_backbone(f"random:{name}").parameters()) / 1e6
    if count > largest:
        return count, "", None
    model = load_backbone(f"random:{name}").eval()
    images, own = images_for(model), images_for(reference)
    seconds(model, images)
    ratios = [seconds(reference, own) / seconds(model, images) for _ in range(repeats)]
    return count, str(images.shape[-1]), statistics.median(ratios)


def row(entry: Published, found: tuple[float, str, float | None]) -> str:
    count, size, ratio = found
    seen = ", ".join(seen.dataset for seen in entry.seen)
    where = "`trocar fetch`" if entry.url else f"[by hand]({entry.family.homepage})"
    speed = "-" if ratio is None else f"{ratio:.2f}"
    cells = [f"`{entry.name}`", entry.architecture, seen, entry.family.licence, where, f"{count:.0f}", size, speed]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--largest", type=float, default=400)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    reference = load_backbone(REFERENCE).eval()
    seconds(reference, images_for(reference))
    print("| name | architecture | pretrained on | licence | where | M parameters | pixels | speed x ResNet-50 |")
    print("|---|---|---|---|---|---|---|---|")
    known: dict[tuple[Any, ...], tuple[float, str, float | None]] = {}
    for entry in BACKBONES.values():
        key = (entry.architecture, str(entry.arguments), entry.preprocessing.size)
        if key not in known:
            known[key] = measure(entry.name, reference, args.repeats, args.largest)
        print(row(entry, known[key]), flush=True)


if __name__ == "__main__":
    main()
