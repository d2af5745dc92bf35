"""Gradients of depthwise convolutions on a CPU, as the trainer takes them, against oneDNN's own.

    python benchmarks/depthwise.py [--threads 2] [--repeats 7]

Weight gradients as one forward convolution: the layers of a ConvNeXt atto under DINO's views of a batch of 32 (2 x 224
and 8 x 96 pixels). Both gradients of layers that stride, in float32 for bfloat16: those of an EfficientNet-Lite0 under
two views of 96 pixels of a batch of 64. Channels last. Medians of interleaved repeats in milliseconds, and the median
of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trocar.backbones.depthwise import layer_gradients, weight_gradient
from trocar.core import resources

GLOBAL, LOCAL = 64, 256  # images of a step
LAYERS = [(GLOBAL, 40, 56), (GLOBAL, 80, 28), (GLOBAL, 160, 14), (GLOBAL, 320, 7)]
LAYERS += [(LOCAL, 40, 24), (LOCAL, 80, 12), (LOCAL, 160, 6), (LOCAL, 320, 3)]

STRIDED = [(96, 49, 3), (144, 27, 5), (240, 13, 3), (672, 9, 5)]
"""Channels, padded side and kernel of layers with stride 2."""


def seconds(action: Callable[[], object]) -> float:
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

    return row(f"{kernel} x {kernel}", tuple(image.shape), kind, onednn, ours, repeats)


def compare_strided(channels: int, side: int, kernel: int, repeats: int) -> str:
    """A row of the second table."""
    image = torch.randn(2 * 64, channels, side, side, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    layer = nn.Conv2d(channels, channels, kernel, stride=2, groups=channels, bias=False).bfloat16()
    weight = layer.weight.detach()
    gradient = torch.randn_like(layer(image).detach())

    def onednn() -> object:
        return layer_gradients(layer, gradient, image, weight, of_input=True, of_weight=True)

    def ours() -> object:
        operands = (gradient.float(), image.float(), weight.float())
        back, of_weight = layer_gradients(layer, *operands, of_input=True, of_weight=True)
        assert back is not None
        return back.bfloat16(), of_weight

    return row(f"{kernel} x {kernel}", tuple(image.shape), torch.bfloat16, onednn, ours, repeats)


def row(
    kernel: str,
    shape: tuple[int, ...],
    kind: torch.dtype,
    onednn: Callable[[], object],
    ours: Callable[[], object],
    n: int,
) -> str:
    """Both timed `n` times in turn, as a line of Markdown."""
    onednn(), ours()
    pairs = [(seconds(onednn), seconds(ours)) for _ in range(n)]
    theirs, mine = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return f"| {kernel} | {' x '.join(map(str, shape))} | {str(kind)[6:]} | {theirs:.1f} | {mine:.1f} | {ratio:.1f} |"


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
    print("\n| kernel, stride 2 | input | type | oneDNN, ms | in float32, ms | x |\n|---|---|---|--:|--:|--:|")
    for strided in STRIDED:
        print(compare_strided(*strided, options.repeats), flush=True)


if __name__ == "__main__":
    main()
