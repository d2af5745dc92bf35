"""Blur: ways to compute it on one CPU thread. Colour: how far fused jitter is from torchvision's, on real frames.

    python benchmarks/augment.py CATALOG [--frames 64] [--repeats 5]

Times are processor time in milliseconds for one view, medians over interleaved repeats. Deviations are absolute
differences in 0..255 to torchvision's operations one after the other, with the factors that DINO's and SimCLR's recipes
draw: on the frames as they are, and exposed until their mean is 0.5, where more of a view is cut off at white.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import functional as tv

from trocar.bench.recipe import DINO
from trocar.data.augment import augment
from trocar.data.blur import blur, blur_view, radius_of
from trocar.data.catalog import Catalog
from trocar.data.reader import Reader
from trocar.data.torch_backend import crop_resize, decode
from trocar.data.views import ViewGroup, ViewPlan, ViewRecipe
from trocar.ssl.methods.simclr import SimclrViews


def matrix_product(x: Tensor, sigma: float) -> Tensor:
    """Two products with a banded S x S matrix."""
    size = x.shape[-1]
    at = torch.arange(size, dtype=torch.float32)
    kernel = torch.exp(-(at[:, None] - at).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum(-1, keepdim=True)
    return kernel @ x @ kernel.T


def convolution(x: Tensor, sigma: float) -> Tensor:
    """Two one-dimensional convolutions."""
    r = radius_of(sigma, x.shape[-1])
    k = torch.exp(-torch.arange(-r, r + 1).float().square() / (2 * sigma**2))
    k = k / k.sum()
    padded = F.pad(x[:, None], (r, r, r, r), mode="reflect")
    return F.conv2d(F.conv2d(padded, k.view(1, 1, -1, 1)), k.view(1, 1, 1, -1))[:, 0]


def wide_kernel(x: Tensor, sigma: float) -> Tensor:
    """torchvision's, with the kernel of 23 that SimCLR-like recipes give it."""
    blurred: Tensor = tv.gaussian_blur(x, [23, 23], [sigma, sigma])
    return blurred


def branch_free(x: Tensor, sigma: float) -> Tensor:
    """The way a GPU takes, eager."""
    return blur(x[None], torch.tensor([sigma]), radius_of(2.0, x.shape[-1]))[0]


WAYS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "shifted sums (used)": blur_view,
    "matrix product": matrix_product,
    "convolution": convolution,
    "torchvision, kernel 23": wide_kernel,
    "branch-free, eager": branch_free,
}


def blur_times(repeats: int) -> None:
    """Print milliseconds per view."""
    print("| blur, ms per view | 224 px, sigma 0.5 | 224 px, sigma 1.9 | 96 px, sigma 1 |\n|---|---|---|---|")
    cases = [(torch.rand(3, 224, 224), 0.5), (torch.rand(3, 224, 224), 1.9), (torch.rand(3, 96, 96), 1.0)]
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(10 * repeats):
        for name, way in WAYS.items():
            for i, (x, sigma) in enumerate(cases):
                started = time.process_time()
                way(x, sigma)
                times.setdefault((name, i), []).append(1e3 * (time.process_time() - started))
    for name in WAYS:
        print(f"| {name} |" + "".join(f" {statistics.median(times[name, i]):.2f} |" for i in range(3)))


STRENGTHS: dict[str, ViewGroup] = {"DINO's": DINO.groups["global"], "SimCLR's": SimclrViews()}
BRIGHT = 0.5


def deviations(catalog: Path, frames: int) -> None:
    """Print mean and 99th percentile of the difference to torchvision's jitter, with and without hue."""
    print("\n| jitter against torchvision, of 255 | frames | mean | 99 % | mean over the worst view |")
    print("|---|---|---|---|---|")
    images = [*some_frames(catalog, frames)]
    seen = f"as they are, mean {torch.stack([x.float().mean() / 255 for x in images]).mean():.2f}"
    for strength, views in STRENGTHS.items():
        group = views.model_copy(update={"blur": 0.0, "solarize": 0.0, "grey": 0.0})
        for hue in (False, True):
            for name, pixels in ((seen, images), (f"exposed to {BRIGHT}", [exposed(x) for x in images])):
                found = [d for slot, image in enumerate(pixels) for d in differences(image, slot, group, hue)]
                every = torch.stack([d.flatten()[::7] for d in found])
                worst = max(float(d.mean()) for d in found)
                what = f"{strength} {'with hue' if hue else 'without hue: the clamp alone'}"
                high = np.quantile(every.numpy(), 0.99)
                print(f"| {what} | {name} | {every.mean():.2f} | {high:.1f} | {worst:.1f} |")


def some_frames(catalog: Path, count: int) -> Iterator[Tensor]:
    """uint8[3, H, W], evenly spread over the catalog."""
    opened = Catalog.open(catalog)
    reader, rows = Reader(opened), np.linspace(0, len(opened.frames["size"]) - 1, count).astype(np.int64)
    for row in rows.tolist():
        yield decode(reader.read(row), int(opened.frames["width"][row]), int(opened.frames["height"][row]))


def exposed(image: Tensor) -> Tensor:
    """The same picture times a factor, cut off at white, so that its mean is `BRIGHT`; one that is brighter stays."""
    x, low, high = image.float() / 255, 1.0, 30.0
    for _ in range(30):
        factor = (low * high) ** 0.5
        low, high = (factor, high) if (x * factor).clamp(0, 1).mean() < BRIGHT else (low, factor)
    return ((x * low).clamp(0, 1) * 255).round().byte()


def differences(image: Tensor, slot: int, group: ViewGroup, hue: bool) -> Iterator[Tensor]:
    """Of each view of a frame, float32[3, S, S] in 0..255."""
    height, width = image.shape[-2:]
    recipe = ViewRecipe(groups={"global": group})
    params = ViewPlan(recipe, 0).params(0, np.array([slot]), np.array([width]), np.array([height]))
    if not hue:
        params.colour[..., 3] = 0
    crops = torch.stack([crop_resize(image, box, group.size) for box in params.boxes[0].tolist()])
    views = augment({"global": crops[None]}, params, recipe, (0.0,) * 3, (1.0,) * 3)["global"][0]
    for i, view in enumerate(views):
        yield (view - one_by_one(crops[i], params, i)).abs() * 255


def one_by_one(crop: Tensor, params: object, view: int) -> Tensor:
    """torchvision's operations in the same order with the same factors, clamped after each; float 0..1."""
    x = crop.float() / 255
    if params.flip[0, view]:  # type: ignore[attr-defined]
        x = x.flip(-1)
    factors = params.colour[0, view].tolist()  # type: ignore[attr-defined]
    adjust = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    for op in params.order[0, view].tolist():  # type: ignore[attr-defined]
        x = adjust[op](x, factors[op])
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    blur_times(args.repeats)
    deviations(args.catalog, args.frames)


if __name__ == "__main__":
    main()
