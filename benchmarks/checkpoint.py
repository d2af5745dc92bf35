"""How long a checkpoint keeps a training waiting: written by the training itself, and behind its back.

    python benchmarks/checkpoint.py OUT [--backbone vit_base_patch16_224] [--batch 2] [--repeats 3] [--device cpu]

DINO with its published views and AdamW, its networks, teacher and moments, on random pixels. In turns, and medians
over them: a step alone; a checkpoint that is waited for (*foreground*); one in the *background*, with steps beside it.
*Blocked* is what the call itself takes, as a share of a step alone. A write in the background also takes cores, disk
and Python's lock from the steps beside it: *in all* has what those took longer until it was published.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from method_cost import LATE, build, published

from trocar.backbones.export import backbone_files
from trocar.core import resources
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.checkpoint_writer import CheckpointContent, CheckpointWriter, Kept
from trocar.ssl.engine.method import Views
from trocar.ssl.engine.optimizer import OptimConfig, build_optimizer
from trocar.ssl.run.run_description import empty_views


class Training:
    """DINO on random views."""

    def __init__(self, backbone: str, batch: int, device: torch.device) -> None:
        resources.keep_freed()
        config = published("dino")
        self.method, self.device = build(config, backbone).to(device).train(), device
        self.optimizer = build_optimizer(self.method, OptimConfig())
        shapes = empty_views(config.recipe(), batch, device)
        self.views = Views({k: torch.randn_like(x) for k, x in shapes.crops.items()}, shapes.rows, shapes.mask_seed)

    def step(self) -> float:
        """Seconds of a step."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.loss(self.views, LATE)["loss"].backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.method.after_step(LATE)
        self.settle()
        return time.perf_counter() - started

    def content(self) -> CheckpointContent:
        """What a run saves."""
        state = {"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict(), "skipped": 0}
        return CheckpointContent(
            state, backbone_files(self.method.exported, extra={}), {"identity": {}, "environment": {}}
        )

    def settle(self) -> None:
        """Until the device has done what it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Times:
    """Seconds, one entry per turn; `first`: blocked by the first checkpoint of a run."""

    first: float = 0.0
    step: list[float] = field(default_factory=list)
    foreground: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)
    longer: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A table for people."""
        shares = {
            "foreground": _shares(self.foreground, self.step),
            "background, blocked": _shares(self.blocked, self.step),
            "background, in all": _shares([a + b for a, b in zip(self.blocked, self.longer, strict=True)], self.step),
        }
        seconds = {"foreground": self.foreground, "background, blocked": self.blocked}
        table = ["| checkpoint | s | % of a step | turns |", "|---|--:|--:|---|"]
        for name, found in shares.items():
            s = f"{statistics.median(seconds[name]):.2f}" if name in seconds else ""
            turns = f"{min(found):.1f} - {max(found):.1f}"
            table.append(f"| {name} | {s} | {statistics.median(found):.1f} | {turns} |")
        step, written = statistics.median(self.step), statistics.median(self.written)
        about = f"a step alone takes {step:.2f} s, a write in the background {written:.2f} s"
        return [f"{about}; the first of a run blocks {self.first:.2f} s", "", *table]


def _shares(seconds: list[float], steps: list[float]) -> list[float]:
    return [100 * a / b for a, b in zip(seconds, steps, strict=True)]


def measure(training: Training, out: Path, repeats: int) -> Times:
    """Take turns, behind two steps, between which memory is asked for, and a first checkpoint."""
    asked: list[float] = []  # when the writer has asked whether it may publish: at last right before it does
    writer = CheckpointWriter(out, Kept(2, None), lambda: asked.append(time.perf_counter()), print)
    times = Times()
    training.step()
    writer.prepare(training.content())
    training.step()
    times.first = _blocked(writer, training, 1)
    for turn in range(1, repeats + 1):
        if (error := writer.close()) is not None:
            raise error
        times.step.append(training.step())
        started = time.perf_counter()
        writer.write(2 * turn, training.content(), wait=True)
        times.foreground.append(time.perf_counter() - started)
        started = time.perf_counter()
        times.blocked.append(_blocked(writer, training, 2 * turn + 1))
        longer = training.step() - times.step[-1]
        while not checkpoint.path_of(out, 2 * turn + 1).exists():
            writer.check()
            longer += training.step() - times.step[-1]
        times.longer.append(longer)
        times.written.append(asked[-1] - started)
    writer.close()
    return times


def _blocked(writer: CheckpointWriter, training: Training, number: int) -> float:
    started = time.perf_counter()
    writer.write(number, training.content())
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder on the disk in question; what is written there is removed again")
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    resources.restart_on_huge_pages()  # as `trocar pretrain`
    training = Training(args.backbone, args.batch, torch.device(args.device))
    run = args.out / "checkpoint-benchmark"
    try:
        times = measure(training, run, args.repeats)
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / len(checkpoint.steps(run))
        print(f"DINO on {args.backbone}, batch {args.batch}, {args.device}: a checkpoint is {size / 2**30:.2f} GiB")
        print("\n".join(times.lines()))
    finally:
        shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    main()
