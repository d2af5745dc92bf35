"""`trocar leaks SHARDS --against DATA ...`: held-out cases in a pool of frames, by name and by content."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "leaks",
        help="find test cases in a pool of pretraining frames",
        description=__doc__ + " Exits 1 if any is found.",
    )
    parser.add_argument("shards", metavar="SHARDS", help="the shards folder that `trocar ingest` wrote")
    parser.add_argument(
        "--against",
        required=True,
        nargs="+",
        metavar="DATA",
        help="folders of labelled data, published sets (cholec80, cholec80/41-80, cholec80:40-40) or lists of cases",
    )
    parser.add_argument("--split", help="the published split list of the labelled folders, such as 40-40")
    parser.add_argument("--layout", help="layout of the labelled folders (default: recognised)")
    parser.add_argument("--all", action="store_true", help="a line for every pair of cases, also for many of one kind")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print a row for each kind of pair of cases, and say what was compared."""
    from pathlib import Path

    from rich.table import Table

    from trocar.core.progress import table_console
    from trocar.data.catalog.catalog import Catalog
    from trocar.data.labelled_data import LabelledFolder
    from trocar.leakage.held_out_sources import held_out
    from trocar.leakage.search import find_leaks
    from trocar.leakage.verdict import fold

    catalog = Catalog.open(args.shards)
    entries = [
        LabelledFolder(data=Path(entry), layout=args.layout, split=args.split) if Path(entry).is_dir() else entry
        for entry in args.against
    ]
    wanted = held_out(entries, say=lambda line: print(line, file=sys.stderr, flush=True))
    found = find_leaks(catalog, wanted, range(catalog.videos.num_rows))
    leaks = found.leaks
    hashed = len(set(wanted.pictures.cases))
    print(
        f"{len(wanted.cases)} held-out cases ({hashed} with pictures, {len(wanted.pictures)} frames) against "
        f"{catalog.videos.num_rows} videos of {len(catalog)} frames"
    )
    for line in found.compared:
        print(line)
    if not leaks:
        print("none of them is in the pool")
        return 0
    table = Table("in the pool", "held out", "verdict", "how")
    told = [leak.as_json() for leak in leaks]
    lines = fold(told) if not args.all else [one for leak in told for one in fold([leak])]
    for one in lines:
        table.add_row(one.pool, f"{one.test} ({'; '.join(one.tasks)})", one.verdict, one.how)
    table_console(160).print(table)
    if len(lines) < len(leaks):
        print(f"{len(leaks)} pairs of cases in {len(lines)} lines; --all has a line for each")
    return 1
