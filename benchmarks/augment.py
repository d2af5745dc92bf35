"""Blur: ways to compute it on one CPU thread. Colour: how far fused jitter is from torchvision's, on real frames.

    python benchmarks/augment.py CATALOG [--frames 64] [--repeats 5]

Times are processor time in milliseconds for one view, medians over interleaved repeats. Deviations are absolute
differences in 0..255 to torchvision's operations one after the other, with the factors that DINO's recipe draws.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
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
from trocar.data.views import ViewPlan, ViewRecipe


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


def deviations(catalog: Path, frames: int) -> None:
    """Print mean and 99th percentile of the difference to torchvision's jitter, with and without hue."""
    opened = Catalog.open(catalog)
    reader, rows = Reader(opened), np.linspace(0, len(opened.frames["size"]) - 1, frames).astype(np.int64)
    group = DINO.groups["global"].model_copy(update={"blur": 0.0, "solarize": 0.0, "grey": 0.0})
    recipe = ViewRecipe(groups={"global": group})
    found: dict[str, list[Tensor]] = {"without hue: the clamp alone": [], "with hue": []}
    for slot, row in enumerate(rows.tolist()):
        width, height = int(opened.frames["width"][row]), int(opened.frames["height"][row])
        image = decode(reader.read(row), width, height)
        params = ViewPlan(recipe, 0).params(0, np.array([slot]), np.array([width]), np.array([height]))
        crops = torch.stack([crop_resize(image, box, group.size) for box in params.boxes[0].tolist()])
        for name, differences in found.items():
            if name.startswith("without"):
                params.colour[..., 3] = 0
            views = augment({"global": crops[None]}, params, recipe, (0.0,) * 3, (1.0,) * 3)["global"][0]
            differences += [(views[i] - one_by_one(crops[i], params, i)).abs() * 255 for i in range(len(crops))]
            params = ViewPlan(recipe, 0).params(0, np.array([slot]), np.array([width]), np.array([height]))
    print("\n| jitter against torchvision, of 255 | mean | 99 % | mean over the worst view |\n|---|---|---|---|")
    for name, differences in found.items():
        every = torch.stack([d.flatten()[::7] for d in differences])
        worst = max(float(d.mean()) for d in differences)
        print(f"| {name} | {every.mean():.2f} | {np.quantile(every.numpy(), 0.99):.1f} | {worst:.1f} |")


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
