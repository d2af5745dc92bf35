"""The class of every pixel of native-sized logits: what segmentation evaluates with against torch's argmax.

    python benchmarks/class_map.py [--height 1024] [--width 1280] [--pairs 15] [--threads 2]

The two take turns. The ratio is the median over pairs of (argmax, then to bytes) / (class_map).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trocar.downstream.segmentation.predict import class_map


def by_argmax(logits: Tensor) -> Tensor:
    """What `class_map` replaces."""
    return logits.argmax(1).to(torch.uint8)


def milliseconds(run: Callable[[Tensor], Tensor], logits: Tensor) -> float:
    """Wall clock of one call."""
    start = time.perf_counter()
    run(logits)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Print a line per number of classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{'classes':>8} {'argmax, ms':>11} {'class_map, ms':>14} {'ratio':>6}")
    for classes in (2, 8, 13):
        logits = torch.randn(1, classes, args.height, args.width, generator=torch.Generator().manual_seed(classes))
        assert torch.equal(by_argmax(logits), class_map(logits))
        pairs = [(milliseconds(by_argmax, logits), milliseconds(class_map, logits)) for _ in range(args.pairs)]
        old, new = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{classes:>8} {old:>11.1f} {new:>14.1f} {ratio:>6.1f}")


if __name__ == "__main__":
    main()
