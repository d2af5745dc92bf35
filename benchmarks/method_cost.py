"""What a step of each method costs, relative to DINO.

    python benchmarks/method_cost.py [--time resnet10t] [--repeats 5] [--batch 8]

FLOPs are those of `trocar pretrain --dry-run`: counted, forward and backward, teachers included, the same on every
machine. Each method has its published defaults, once with its published views and once with two views of 224 pixels
(augmented distillation: two of the anchor, and one of each neighbour). Distillation's teacher is a ViT-B/16.

`--time BACKBONE` also measures steps with the published views and AdamW, on random pixels: each method beside DINO, in
turns, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from trocar.backbones.load import load_backbone
from trocar.errors import ConfigError
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.engine.method import METHODS, Method, MethodConfig, Progress, Views
from trocar.ssl.engine.optimizer import OptimConfig, build_optimizer
from trocar.ssl.engine.trainer import TrainConfig
from trocar.ssl.methods import default
from trocar.ssl.run.auto_values import DataSize
from trocar.ssl.run.run_description import FORMULAS, empty_views, estimate

BACKBONES = ("resnet50", "vit_small_patch16_224")
NEEDED: dict[str, dict[str, Any]] = {"distillation": {"teacher": {"name": "random:vit_base_patch16_224"}}}
BATCH = 256
LATE = Progress(step=99_999, total=100_000, epoch_steps=100)
LARGE = DataSize(frames=1_000_000, batch=BATCH, total=LATE.total, epoch_steps=LATE.epoch_steps)


def published(name: str) -> MethodConfig:
    """The method's defaults."""
    return default(name, **NEEDED.get(name, {})).resolved(LARGE)


def two_views(name: str) -> MethodConfig:
    """The method's defaults, but without small views."""
    views = published(name).model_dump(by_alias=True)["views"]
    small = {key: None for key in views if key in ("local", "neighbour_local")}
    return default(name, **NEEDED.get(name, {}), **({"views": small} if small else {})).resolved(LARGE)


def build(config: MethodConfig, backbone: str, **settings: Any) -> Method:
    """The method on a backbone with random weights; `settings` are keys of `backbone` in a configuration."""
    sizes = [group.size for group in config.recipe().groups.values()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return config.build(TimmNetworks(BackboneConfig(name=backbone, **settings), 0, sizes))


def gflop(config: MethodConfig, backbone: str, batch: int = BATCH) -> float:
    """GFLOP of a step per frame of the batch; a multiply-add is two."""
    make_views = partial(empty_views, config.recipe())
    train = TrainConfig(batch=batch, steps=1)
    return estimate(build(config, backbone), make_views, train, OptimConfig(), 1, LATE).flops / batch / 1e9


def forward_gmac(backbone: str, size: int = 224) -> float:
    """Multiply-adds of a forward pass of one view, in billions."""
    model = load_backbone(backbone).eval()
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with FakeTensorMode(allow_non_fake_inputs=True), counter, torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 2e9


def cost_table() -> list[str]:
    """Markdown: GFLOP per frame and, in brackets, times DINO's."""
    lines = [
        "| method | " + " | ".join(f"{b}, {v}" for b in BACKBONES for v in ("published views", "two views")) + " |"
    ]
    lines.append("|---" * (1 + 2 * len(BACKBONES)) + "|")
    columns = [(b, make) for b in BACKBONES for make in (published, two_views)]
    dino = {column: gflop(column[1]("dino"), column[0]) for column in columns}
    for name in METHODS.names():
        cells = [_cell(partial(gflop, make(name), b), dino[b, make]) for b, make in columns]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def _cell(cost: Callable[[], float], reference: float) -> str:
    try:
        found = cost()
    except ConfigError:
        return "-"
    return f"{found:.1f} ({found / reference:.2f})"


class Steps:
    """Training steps of one method on the same random views."""

    def __init__(self, name: str, backbone: str, batch: int) -> None:
        config = published(name)
        self.method = build(config, backbone).train()
        self.optimizer = build_optimizer(self.method, OptimConfig())
        shapes = empty_views(config.recipe(), batch, torch.device("cpu"))
        self.views = Views({k: torch.randn_like(x) for k, x in shapes.crops.items()}, shapes.rows, shapes.mask_seed)

    def seconds(self) -> float:
        """Of one step: loss, gradients, optimizer, the method's own update."""
        started = time.perf_counter()
        self.method.loss(self.views, LATE)["loss"].backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.method.zero_grad()
        self.method.after_step(LATE)
        return time.perf_counter() - started


def time_table(backbone: str, batch: int, repeats: int) -> list[str]:
    """Markdown: seconds of a step as a multiple of DINO's, the median of pairs."""
    lines = [f"| method on `{backbone}`, batch {batch} | x DINO | pairs |", "|---|---|---|"]
    dino = Steps("dino", backbone, batch)
    dino.seconds()
    for name in METHODS.names():
        try:
            other = Steps(name, backbone, batch)
        except ConfigError:
            lines.append(f"| `{name}` | - | |")
            continue
        other.seconds()
        ratios = [other.seconds() / dino.seconds() for _ in range(repeats)]
        lines.append(f"| `{name}` | {statistics.median(ratios):.2f} | {np.min(ratios):.2f} - {np.max(ratios):.2f} |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", metavar="BACKBONE", help="also measure steps on this backbone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="of the measured steps")
    args = parser.parse_args()
    for backbone in BACKBONES:
        print(f"{backbone}: {forward_gmac(backbone):.2f} G multiply-adds for a forward pass of one view of 224 pixels")
    print("\n".join(["", "GFLOP per frame of a step (x DINO)", "", *cost_table()]))
    if args.time is not None:
        print("\n".join(["", *time_table(args.time, args.batch, args.repeats)]))


if __name__ == "__main__":
    main()
