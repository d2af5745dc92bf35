"""Settle in minutes whether pretraining on this GPU is right, and how fast it is.

    python benchmarks/gpu/acceptance.py --out acceptance.json
    python benchmarks/gpu/acceptance.py --out acceptance.json --device cpu      # all of it at tiny sizes

Checks run in order of value, each under a time limit, and the report is written after each. A check that hangs is
noted, and the program starts itself anew behind it; the same command continues a report. Exits 1 if a check failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from trocar.diagnostics.gpu.checks import FAST, RIGHT
from trocar.diagnostics.gpu.runner import BAD, Subject, run_checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the report, JSON")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--budget", type=float, default=480.0, metavar="S", help="for all checks (default: %(default)s s)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these checks alone")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu runs the same at tiny sizes")
    checks = [check for check in (*RIGHT, *FAST) if not args.only or check.name in args.only]

    def again() -> None:
        os.execv(sys.executable, [sys.executable, *sys.argv])

    folder = Path(tempfile.mkdtemp(prefix="trocar-acceptance-"))
    try:
        subject = Subject(torch.device(args.device), folder / "catalog")
        outcomes = run_checks(checks, subject, lambda line: print(line, flush=True), again, args.out, args.budget)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(outcome.state in BAD for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
