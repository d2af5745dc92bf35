"""`trocar doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser("doctor", help="what of GPU, DALI, SLURM and mlflow works here")
    parser.add_argument("--catalog", metavar="DIR", type=Path, help="compare the backends on these shards' own frames")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 if everything that a run on a CPU needs works and no check failed, else 1."""
    from trocar.doctor.report import examine

    return 0 if examine(print, args.catalog) else 1
