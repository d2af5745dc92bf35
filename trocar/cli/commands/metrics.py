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
    parser.add_argument(
        "--classes",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        metavar="NAME,NAME,...",
        help="class names of the task in the order of their scores, where the file does not say them",
    )
    parser.add_argument("--out", metavar="FILE", help="where to write (default: metrics.json beside PREDICTIONS)")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="draws of cases; 0 for no intervals (default 1000)"
    )
    parser.add_argument(
        "--nsd", type=float, metavar="PX", help="also surface Dice of masks, with this tolerance in their pixels"
    )
    parser.add_argument("--consistency", action="store_true", help="also how masks change from frame to frame (tc_iou)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute, print the runs of each task side by side, and write metrics.json."""
    from trocar.core.progress import table_console
    from trocar.downstream.predictions.mask_outcomes import MaskExtras
    from trocar.downstream.predictions.prediction_file import Predictions
    from trocar.downstream.predictions.prediction_scores import METRICS, MetricsReport, PredictionScores
    from trocar.errors import ConfigError

    path = Path(args.predictions)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the file in it, such as {path / 'predictions.parquet'}")
    if args.bootstrap < 0:
        raise ConfigError(f"--bootstrap {args.bootstrap}: give 0 or more draws")
    out = Path(args.out) if args.out else path.with_name(METRICS)
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: its folder does not exist")
    if out.absolute() in (path.absolute(), path.with_suffix(".json").absolute()):
        raise ConfigError(f"--out {out}: that is read as part of the predictions; give another file")
    if args.nsd is not None and args.nsd < 0:
        raise ConfigError(f"--nsd {args.nsd}: give 0 or more pixels")
    predictions = Predictions.read(path, args.task, args.classes)
    extras = MaskExtras(args.nsd, args.consistency)
    found = MetricsReport(PredictionScores.of(predictions, args.bootstrap, extras))
    console = table_console(120)
    for table in found.tables(console.width):
        console.print(table)
    for note in found.notes:
        print(f"note: {note}")
    found.write(out)
    print(f"metrics are in {out}")
    return 0
