"""`trocar fetch`: published weights onto this machine, checksummed; nothing else of Trocar uses the network."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "fetch", help="download published weights, checked and recorded", description=__doc__
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="as `trocar fetch --list` has them")
    parser.add_argument("--list", action="store_true", help="all names, with licence and what is fetched")
    parser.add_argument("--from", dest="origin", metavar="FILE|URL", help="another copy, such as one you downloaded")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch one after another; those that are there are verified."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from trocar.backbones import fetch, store
    from trocar.errors import ConfigError
    from trocar.progress import Console

    if args.list:
        return _list()
    if not args.names:
        raise ConfigError("give a name; `trocar fetch --list` has them")
    if args.origin and len(args.names) > 1:
        raise ConfigError("--from goes with one name")
    chosen = [store.entry(name) for name in args.names]
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    for entry in chosen:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(entry.name, total=None)
            record = fetch.fetch(entry, args.origin, partial(_advance, bar, task))
        path = store.root() / entry.name / record.file
        print(f"{entry.name}: {path}, {record.bytes / 1e6:.0f} MB, sha256 {record.sha256}")
        if not store.is_published_file(entry):
            print("nobody has compared this file with the published one: verdicts on test data count it as unknown")
        print(f"licence {entry.family.licence}; {entry.family.citation}")
    return 0


def _advance(bar: Any, task: Any, done: int, total: int | None) -> None:
    bar.update(task, completed=done, total=total)


def _list() -> int:
    """One line per name, never cut: they are for copying and for scripts."""
    from trocar.backbones import store
    from trocar.backbones.published import entries

    found = entries().values()
    widths = [max(map(len, column)) for column in zip(*((e.name, e.architecture) for e in found), strict=True)]
    for e in found:
        fetched = "fetched" if store.read_record(e.name) else ""
        print(f"{e.name:{widths[0]}s}  {e.architecture:{widths[1]}s}  {e.family.licence:16s}  {fetched}".rstrip())
    print(f"fetched weights are in {store.root()}")
    return 0
