"""`trocar bench`: how fast the loader, the trainer and ingest are here, as ratios to named references."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocar.diagnostics.bench.report import BenchComparison


def register(subparsers: Any) -> None:
    """Declare the command and its three benches."""
    parser = subparsers.add_parser("bench", help="speed against named references", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{loader,trainer,ingest}")
    loader = kinds.add_parser("loader", help="DINO's views per second", description=_LOADER)
    loader.add_argument("catalog", type=Path, help="shards folder of `trocar ingest`")
    loader.add_argument("--workers", type=int, default=2, help="worker processes or threads (default: 2)")
    loader.add_argument("--batch", type=int, default=32)
    loader.add_argument("--seconds", type=float, default=10, help="that each trial is timed for (default: 10)")
    trainer = kinds.add_parser("trainer", help="DINO steps per second", description=_TRAINER)
    trainer.add_argument("catalog", type=Path, help="shards folder of `trocar ingest`")
    trainer.add_argument("--backbone", default="convnext_atto", help="a timm name (default: convnext_atto)")
    trainer.add_argument("--batch", type=int, default=32)
    trainer.add_argument("--steps", type=int, default=10, help="timed in each trial (default: 10, of which one logs)")
    trainer.add_argument("--workers", type=int, default=1, help="loader processes (default: 1)")
    trainer.add_argument("--threads", type=int, default=2, help="of the trainer (default: 2)")
    trainer.add_argument("--prototypes", type=int, default=65536)
    trainer.add_argument("--compile", action="store_true", help="also with torch.compile")
    trainer.add_argument(
        "--lightly-train", type=Path, metavar="PYTHON", help="interpreter of an environment with lightly-train"
    )
    ingest = kinds.add_parser("ingest", help="ingest against the ffmpeg command line", description=_INGEST)
    ingest.add_argument("videos", type=Path, help="folder of videos")
    ingest.add_argument("--fps", type=float, default=1.0, help="frames per second of video (default: 1)")
    ingest.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    for bench in (loader, trainer):
        bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where views end (default: cpu)")
    for bench in (loader, trainer, ingest):
        bench.add_argument("--repeats", type=int, default=3, help="of every contender, interleaved (default: 3)")
        bench.add_argument("--json", type=Path, metavar="FILE", help="every figure with its pairs")
        bench.add_argument("--plot", type=Path, metavar="FILE", help="bars and trials, as .png or .svg")
        bench.set_defaults(run=run)


_LOADER = "Views of DINO (2 x 224, 8 x 96) per second from the frames of a catalog, against PIL, lightly and DALI."
_TRAINER = "DINO training steps against a bare loop of the same model, views and optimizer."
_INGEST = (
    "Frames from videos, against the ffmpeg command line writing JPEGs of the same times and against a bare decode. "
    "Ends with the proof that both chose the same frames: each picture must be nearer to ffmpeg's of its time than to "
    "the video's frame before and after it."
)


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write what was asked for."""
    from trocar.core.progress import Console, table_console
    from trocar.errors import ConfigError

    for name in ("repeats", "workers", "batch", "steps", "threads"):
        if getattr(args, name, 1) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(args, name)}")
    for path in (args.json, args.plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: its folder does not exist; create it first")
    if getattr(args, "device", "cpu") == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("--device cuda: torch sees no GPU; `trocar doctor` says what it finds of one")
    errors = Console(stderr=True, highlight=False)
    comparison = _measure(args, lambda line: errors.print(line, markup=False))
    table_console(140).print(comparison.table())
    if args.json is not None:
        comparison.save(args.json)
        print(f"every figure is in {args.json}")
    if args.plot is not None:
        comparison.plot(args.plot)
        print(f"the plot is {args.plot}")
    # A ratio of unlike work is none.
    return 0 if all(one["same"] for one in comparison.settings.get("frames", ())) else 1


def _measure(args: argparse.Namespace, say: Any) -> BenchComparison:
    if args.kind == "loader":
        from trocar.diagnostics.bench import loader

        return loader.measure(args.catalog, args.workers, args.batch, args.seconds, args.repeats, say, args.device)
    if args.kind == "trainer":
        from trocar.diagnostics.bench import trainer

        settings = trainer.Settings(
            args.catalog,
            args.backbone,
            args.batch,
            args.steps,
            args.workers,
            args.threads,
            args.prototypes,
            args.device,
        )
        return trainer.measure(settings, args.repeats, args.lightly_train, args.compile, say)
    return _ingest(args, say)


def _ingest(args: argparse.Namespace, say: Any) -> BenchComparison:
    from trocar.diagnostics.bench import ingest
    from trocar.diagnostics.bench.report import BenchComparison, Trial

    found = ingest.measure(args.videos, args.fps, args.repeats, args.workers, say)
    trials = tuple(
        Trial(d["contender"], d["repeat"], d["video_seconds"], d["seconds"], {"processor s": d["cpu_seconds"]})
        for d in found
    )
    agreements = ingest.compare_frames(args.videos, args.fps, args.workers)
    for one in agreements:
        say(
            f"{one.video}: {one.frames} frames, {'the same' if one.same else 'NOT THE SAME'} as ffmpeg's; luma differs "
            f"by {one.difference:.2f} of 255, from frames before and after by {one.neighbour_difference:.2f}"
        )
    frames = [asdict(one) | {"same": one.same} for one in agreements]
    settings = {"videos": str(args.videos), "fps": args.fps, "workers": args.workers, "frames": frames}
    title = f"Ingest at {args.fps:g} fps, {args.workers} workers"
    return BenchComparison(title, "x real time", "ffmpeg", trials, settings)
