"""`trocar inspect PATH`: what is in it. A kind of thing is a module with `recognises(path)` and `show(path, ...)`."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

DATA_SET = "a labelled data set"
KINDS = {
    "a shards folder": "trocar.data.catalog.inspection",
    DATA_SET: "trocar.downstream.inspect_dataset",
    "a run, an exported backbone or a weight file (also NAME@FILE, ARCH@FILE)": ("trocar.backbones.inspect_checkpoint"),
}
"""What can be inspected -> the module that does it, asked in this order."""


def register(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "inspect", help="what is in a shards folder, a labelled data set, a run or a weight file"
    )
    parser.add_argument("path", metavar="PATH", help=", or ".join(KINDS))
    parser.add_argument("--sheet", metavar="FILE", help="write a contact sheet (PNG)")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read everything: compare checksums, decode labelled frames, load weights and print their fingerprint",
    )
    parser.add_argument(
        "--review",
        metavar="FILE",
        help="of a shards folder: list frames that may be outside of the body (CSV, with pictures beside it)",
    )
    parser.add_argument(
        "--all", action="store_true", help="of a labelled data set: all classes, in every published split list"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 if it could be read (and, with --verify, is what its checksums say), else 1."""
    from trocar.core.progress import Console
    from trocar.data.remote.store import place_of
    from trocar.errors import ConfigError

    path = place_of(args.path)
    is_there = isinstance(path, str) or path.exists()
    if not is_there and "@" in args.path and not (args.sheet or args.review or args.all):
        from trocar.backbones.inspect_checkpoint import show_named
        from trocar.leakage.exposure import RecordedHistory

        return show_named(args.path, Console(highlight=False), RecordedHistory(), verify=args.verify)
    if not is_there:
        raise ConfigError(f"{path}: no such file or folder")
    sheet = Path(args.sheet) if args.sheet else None
    if sheet is not None and not sheet.absolute().parent.is_dir():
        raise ConfigError(f"--sheet {sheet}: its folder does not exist")
    if sheet is not None and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"--sheet {sheet}: give a file name that ends in .png or .jpg")
    if args.review:
        _write_review(path, Path(args.review))
    for kind, module in ((kind, importlib.import_module(name)) for kind, name in KINDS.items()):
        if module.recognises(path):
            if args.all and kind != DATA_SET:
                raise ConfigError(f"--all goes with {DATA_SET}; {path} is {kind}")
            more: dict[str, Any] = {"whole": True} if args.all else {}
            if kind == DATA_SET:
                more["check"] = importlib.import_module("trocar.leakage.judge")
            return int(module.show(path, Console(highlight=False), sheet=sheet, verify=args.verify, **more))
    raise ConfigError(f"{path}: nothing that can be inspected; expected {', or '.join(KINDS)}{_layouts(path)}")


def _write_review(path: Path | str, target: Path) -> None:
    from trocar.data.catalog import inspection
    from trocar.data.catalog.catalog import Catalog
    from trocar.data.catalog.inspection import write_review
    from trocar.errors import ConfigError

    if not inspection.recognises(path):
        raise ConfigError(f"--review goes with a shards folder; {path} is none")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"--review {target}: its folder does not exist")
    rows, sheets = write_review(Catalog.open(path), target)
    pictures = f", pictures in {', '.join(map(str, sheets))}" if sheets else ""
    print(f"{len(rows)} frames to review: {target}{pictures}")
    print(f"delete the rows that are in the body; `trocar ingest ... --exclude {target}` leaves the others out")


def _layouts(path: Path | str) -> str:
    """What a data set's folder would have to hold."""
    if isinstance(path, str) or not path.is_dir():
        return ""
    from trocar.downstream.datasets.base import DATASETS

    return ". Data sets: " + "; ".join(f"{name}: {one.expects}" for name, one in DATASETS.items())
