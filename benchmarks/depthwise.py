"""The weight gradient of depthwise convolutions on a CPU: one forward convolution against oneDNN's own gradient.

    python benchmarks/depthwise.py [--threads 2] [--repeats 7]

The layers of a ConvNeXt atto under DINO's views of a batch of 32 (2 x 224 and 8 x 96 pixels), channels last. Medians of
interleaved repeats in milliseconds, and the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trocar.backbones.depthwise import weight_gradient
from trocar.core import resources

GLOBAL, LOCAL = 64, 256  # images of a step
LAYERS = [(GLOBAL, 40, 56), (GLOBAL, 80, 28), (GLOBAL, 160, 14), (GLOBAL, 320, 7)]
LAYERS += [(LOCAL, 40, 24), (LOCAL, 80, 12), (LOCAL, 160, 6), (LOCAL, 320, 3)]


def seconds(action: Callable[[], Tensor]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def compare(images: int, channels: int, size: int, kernel: int, kind: torch.dtype, repeats: int) -> str:
    """A row of the table."""
    image, gradient = (
        torch.randn(images, channels, size, size).to(kind).to(memory_format=torch.channels_last) for _ in range(2)
    )
    weight, pad = torch.randn(channels, 1, kernel, kernel).to(kind), (kernel // 2, kernel // 2)

    def onednn() -> Tensor:
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient, image, weight, None, (1, 1), pad, (1, 1), False, (0, 0), channels, (False, True, False)
        )[1]
        return found

    def ours() -> Tensor:
        return weight_gradient(image, gradient, pad)

    onednn(), ours()
    pairs = [(seconds(onednn), seconds(ours)) for _ in range(repeats)]
    theirs, mine = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    shape = f"{images} x {channels} x {size} x {size}"
    return f"| {kernel} x {kernel} | {shape} | {str(kind)[6:]} | {theirs:.1f} | {mine:.1f} | {ratio:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    resources.keep_freed()
    print("| kernel | input | type | oneDNN, ms | forward convolution, ms | x |\n|---|---|---|--:|--:|--:|")
    for kernel in (7, 5):
        for layer in LAYERS:
            for kind in (torch.float32, torch.bfloat16):
                print(compare(*layer, kernel, kind, options.repeats), flush=True)


if __name__ == "__main__":
    main()
