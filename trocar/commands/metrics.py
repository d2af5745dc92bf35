"""`trocar metrics PREDICTIONS`: every named metric of a predictions file, with bootstrap intervals over cases."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser("metrics", help="all named metrics of a predictions file", description=__doc__)
    parser.add_argument("predictions", metavar="PREDICTIONS", help="predictions.parquet, or a CSV file")
    parser.add_argument("--task", help="only this task; the task of a file without a column 'task'")
    parser.add_argument("--out", metavar="FILE", help="where to write (default: metrics.json beside PREDICTIONS)")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="draws of cases; 0 for no intervals (default 1000)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute, print one table per task, backbone, protocol and seed, and write metrics.json."""
    import sys

    from rich.console import Console

    from trocar.downstream.metrics_file import METRICS, report
    from trocar.errors import ConfigError

    path = Path(args.predictions)
    out = Path(args.out) if args.out else path.with_name(METRICS)
    if args.bootstrap < 0:
        raise ConfigError(f"--bootstrap {args.bootstrap}: give 0 or more draws")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: its folder does not exist")
    if out.absolute() in (path.absolute(), path.with_suffix(".json").absolute()):
        raise ConfigError(f"--out {out}: that is read as part of the predictions; give another file")
    found = report(path, args.task, args.bootstrap)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    for table in found.tables():
        console.print(table)
    found.write(out)
    print(f"metrics are in {out}")
    return 0
