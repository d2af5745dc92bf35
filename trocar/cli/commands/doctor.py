"""`trocar doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser("doctor", help="what of GPU, DALI, SLURM and mlflow works here")
    parser.add_argument("--catalog", metavar="DIR", type=Path, help="compare the backends on these shards' own frames")
    parser.add_argument("--gpu", action="store_true", help="whether what this GPU computes is right, in a few minutes")
    parser.add_argument("--json", metavar="FILE", type=Path, help="with --gpu: every figure, written after each check")
    parser.add_argument("--slurm", metavar="PROFILE", help="examine a compute node of the cluster, by a job")
    parser.add_argument("--slurm-set", metavar="KEY=VALUE", action="append", default=[], help="change the profile")
    parser.add_argument("--wait", type=float, default=600.0, metavar="S", help="for that job (default: %(default)s s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 if everything that a run on a CPU needs works and no check failed, else 1."""
    if args.gpu:
        from trocar.diagnostics.gpu.checks import examine_gpu

        return 0 if examine_gpu(print, args.json) else 1
    if args.slurm is not None:
        from trocar.slurm.submit import examine_node

        return 0 if examine_node(args.slurm, args.slurm_set, args.catalog, args.wait, print) else 1
    from trocar.diagnostics.checks import examine

    return 0 if examine(print, args.catalog) else 1
