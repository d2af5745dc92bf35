"""`trocar report`: one offline HTML page about a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from trocar.errors import TrocarError


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
    """Gather, render, say where it is."""
    from trocar.report.gather_run import gather
    from trocar.report.page_pictures import first_views
    from trocar.report.run_report import write
    from trocar.runs.run_folder import read_config, read_record

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    read_record(args.run_folder)
    try:
        views = first_views(read_config(args.run_folder))
    except TrocarError as error:
        say(f"no views: {error}")
        views = None
    share = True if args.share_frames else None
    inputs = gather(args.run_folder, args.evaluation, views, say=say, share_frames=share)
    for note in inputs.notes:
        say(note)
    print(write(inputs, args.run_folder / "report"))
    return 0
