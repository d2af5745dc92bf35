"""What `backbone.pack_views` is worth: a step with views of all sizes in one pass, against one pass for each size.

    python benchmarks/packed_views.py [--method dino] [--backbone vit_small_patch16_224] [--batch 8] [--pairs 7]
        [--device cpu] [--precision float32]

The method's published views, on random pixels, and AdamW. Steps in turns on the same weights; the ratio is the time of
separate passes over that of packed ones, the median over the pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from method_cost import LATE, build, published

from trocar.backbones.device import Precision, autocast
from trocar.core import resources
from trocar.ssl.engine.method import Method, Views
from trocar.ssl.engine.optimizer import OptimConfig, build_optimizer
from trocar.ssl.run.run_description import empty_views


class Steps:
    """Training steps of a method on the same random views."""

    def __init__(self, args: argparse.Namespace, pack: bool) -> None:
        config, self.device = published(args.method), torch.device(args.device)
        self.precision: Precision = args.precision
        self.method: Method = build(config, args.backbone, pack_views=pack).to(self.device).train()
        self.optimizer = build_optimizer(self.method, OptimConfig())
        shapes = empty_views(config.recipe(), args.batch, self.device)
        torch.manual_seed(0)
        self.views = Views({k: torch.randn_like(x) for k, x in shapes.crops.items()}, shapes.rows, shapes.mask_seed)

    def seconds(self) -> float:
        """Of one step, until the device is done with it."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            loss = self.method.loss(self.views, LATE)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.method.after_step(LATE)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="dino", choices=("dino", "dinov2", "swav", "augmented_distillation"))
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    resources.keep_freed()
    packed, apart = Steps(args, pack=True), Steps(args, pack=False)
    for steps in (packed, apart):
        steps.seconds()
    pairs = [(apart.seconds(), packed.seconds()) for _ in range(args.pairs)]
    ratios = sorted(a / b for a, b in pairs)
    print(f"{args.method} on {args.backbone}, batch {args.batch}, {args.device}, {args.precision}:")
    print(f"one pass per size takes {statistics.median(a for a, _ in pairs):.3f} s a step")
    print(f"packed is {statistics.median(ratios):.3f} times as fast ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
