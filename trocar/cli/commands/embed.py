"""`trocar embed PATH --backbone B --out F`: pooled features of pictures, videos or shards, as a table or an array."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "embed", help="pooled features of pictures, videos or shards", description=__doc__.partition(": ")[2]
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a shards folder; or pictures, videos, and folders of them"
    )
    add = parser.add_argument
    add("--backbone", required=True, help="timm name, published weights, run or exported folder")
    add("--out", type=Path, required=True, metavar="FILE", help=".parquet (a table), or .npy with a .csv of its rows")
    add("--size", type=int, help="input size in pixels (default: what the backbone was trained with)")
    add("--fps", type=float, default=1.0, help="frames per second of videos (default: %(default)s)")
    add("--batch", type=int, help="frames at a time (default: as many as suit the device)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="what the network computes in")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute, write, say where it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trocar.core.progress import Console
    from trocar.errors import ConfigError
    from trocar.jobs.embed import ENDINGS, embed

    if args.out.suffix not in ENDINGS:
        raise ConfigError(f"--out {args.out}: give a file name that ends in {' or '.join(ENDINGS)}")
    if not args.out.absolute().parent.is_dir():
        raise ConfigError(f"--out {args.out}: its folder does not exist")
    for name in ("size", "batch", "fps"):
        if getattr(args, name) is not None and getattr(args, name) <= 0:
            raise ConfigError(f"--{name} {getattr(args, name)}: give more than 0")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("frames", total=None)
        found = embed(
            args.paths[0] if len(args.paths) == 1 else args.paths,
            args.backbone,
            size=args.size,
            fps=args.fps,
            batch=args.batch,
            device=args.device,
            precision=args.precision,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    count, width = found.features.shape
    files = found.write(args.out)
    print(f"{count} frames, {width} features each: {' and '.join(map(str, files))}")
    return 0
