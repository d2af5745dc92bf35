"""`trocar report`: one offline HTML page about a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Declare `trocar report`."""
    parser = subparsers.add_parser("report", help="write one offline HTML page about a run: RUN/report/index.html")
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="results.json of `trocar evaluate`, or the folder it is in"
    )
    parser.add_argument(
        "--share-frames",
        action="store_true",
        help="show frames and names of videos marked private (default: privacy.share_frames of the run)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the page, say where it is."""
    from trocar.report.run_report import write_report

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    share = True if args.share_frames else None
    print(write_report(args.run_folder, args.evaluation, say, share))
    return 0
