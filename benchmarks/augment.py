"""Blur and RandAugment: ways to compute them on one CPU thread. Colour: how far fused jitter is from torchvision's.

    python benchmarks/augment.py [CATALOG] [--frames 64] [--repeats 5]

Times are processor time in milliseconds for one view, medians over interleaved repeats. RandAugment's are of the whole
way that a GPU takes, run on a CPU, for the group of a SelfSupSurg recipe: the operations that were drawn, against all
of them for all views; the ratio is the median of those of pairs. Deviations are absolute
differences in 0..255 to torchvision's operations one after the other, with the factors that DINO's and SimCLR's recipes
draw: on real frames as they are, and exposed until their mean is 0.5, where more of a view is cut off at white.
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

from trocar.backbones.preprocess import IMAGENET_MEAN, IMAGENET_STD
from trocar.core.config import load
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.reader import Reader
from trocar.data.loading.steps import crop_resize, decode
from trocar.data.views.augment import SOLARIZE_FROM, Dealt, augment, augment_batch, rectangles
from trocar.data.views.pixel_ops import blur, blur_view, colour_maps, radius_of
from trocar.data.views.randaugment import OPERATIONS, apply_code
from trocar.data.views.recipe import ViewGroup, ViewParams, ViewPlan, ViewRecipe
from trocar.diagnostics.bench.loader import DINO
from trocar.ssl.methods.simclr import SimclrViews
from trocar.ssl.run.pretrain_config import PretrainConfig

SELFSUPSURG = "pretrain/selfsupsurg_simclr_resnet50"


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
    """The way a GPU takes, not compiled."""
    return blur(x[None], torch.tensor([sigma]), radius_of(2.0, x.shape[-1]))[0]


WAYS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "shifted sums (used)": blur_view,
    "matrix product": matrix_product,
    "convolution": convolution,
    "torchvision, kernel 23": wide_kernel,
    "for batches, not compiled": branch_free,
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


def all_operations(crops: Tensor, params: ViewParams, group: ViewGroup, scaling: Tensor) -> Tensor:
    """`augment_batch` without regard to what was drawn: each layer computes every operation for all views."""
    dealt = Dealt.of(params, crops.device)
    op, level = (torch.as_tensor(values).flatten(0, 1) for values in (params.rand_op, params.rand_level))
    each = (-1, 1, 1, 1)
    x = crops.float() / 255
    x = torch.where(dealt.flip.view(each), x.flip(-1), x)
    assert group.rand_augment is not None
    assert group.erase is not None
    for layer in range(group.rand_augment.layers):
        for code, name in enumerate(OPERATIONS, start=1):
            if name in group.rand_augment.operations:
                drawn = (op[:, layer] == code).view(each)
                x = torch.where(drawn, apply_code(x, code, level[:, layer]), x)
    matrix, offset = colour_maps(x.mean((-2, -1)), dealt.colour, dealt.order, dealt.grey)
    x = (torch.bmm(matrix, x.flatten(2)) + offset).clamp(0, 1).view_as(x)
    x = blur(x, dealt.sigma, radius_of(group.sigma[1], group.size))
    x = torch.where(dealt.solarize.view(each) & (x >= SOLARIZE_FROM), 1 - x, x)
    x = torch.where(rectangles(dealt.erase, group.size), 0.0, x)
    return (x - scaling[0]) / scaling[1]


def rand_augment_times(samples: int, repeats: int) -> None:
    """Print milliseconds per view of both ways, and their ratio."""
    method = load(PretrainConfig, SELFSUPSURG, ["data.catalog=none", "run.out=none"]).method
    (group,) = method.recipe().groups.values()
    size = np.full(samples, 480)
    params = ViewPlan(method.recipe(), 0).params(0, np.arange(samples), size, size)
    n, scaling = samples * group.count, torch.tensor([IMAGENET_MEAN, IMAGENET_STD])[..., None, None]
    crops = torch.randint(0, 256, (n, 3, group.size, group.size), dtype=torch.uint8)
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for way in (all_operations, augment_batch):
            started = time.process_time()
            way(crops, params, group, scaling)
            times.setdefault(way.__name__, []).append(1e3 * (time.process_time() - started) / n)
    every, drawn = times.values()
    ratio = statistics.median(a / b for a, b in zip(every, drawn, strict=True))
    print(f"\n| {SELFSUPSURG}, {n} views of {group.size} px | ms per view |\n|---|---|")
    print(f"| all operations for all views | {statistics.median(every):.2f} |")
    print(f"| those that were drawn (used) | {statistics.median(drawn):.2f} |")
    print(f"| ratio | {ratio:.1f} |")


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
    parser.add_argument("catalog", type=Path, nargs="?", help="for the comparison of colours; without, it is left out")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--samples", type=int, default=32, help="of RandAugment's group, two views each")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    blur_times(args.repeats)
    rand_augment_times(args.samples, args.repeats)
    if args.catalog is not None:
        deviations(args.catalog, args.frames)


if __name__ == "__main__":
    main()
