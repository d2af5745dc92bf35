"""`trocar neighbours CATALOG`: for every frame the frames of other cases that look most alike, for pretraining."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

OPTIONS = ("backbone", "name", "k", "size", "batch", "workers", "threads", "device")


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "neighbours",
        help="build a nearest-neighbour index of a catalog",
        description=__doc__ + " Used with method.neighbours.source=knn and method.neighbours.index=NAME.",
    )
    parser.add_argument("catalog", metavar="CATALOG", help="the shards folder that `trocar ingest` wrote")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="composition.key=value",
        help="which frames, as in pretraining, such as composition.fps=1",
    )
    add = parser.add_argument
    add("--backbone", required=True, help="timm name, published weights, run or exported folder")
    add("--name", required=True, help="of the index; one of that name is replaced")
    add("--k", type=int, help="neighbours per frame (default 4)")
    add("--size", type=int, help="input size in pixels (default: what the backbone was trained with)")
    add("--batch", type=int, help="frames that are embedded at once (default 64)")
    add("--workers", type=int, help="processes that decode (default 2)")
    add("--threads", type=int, help="threads that embed and search (default: OMP_NUM_THREADS, else all cores)")
    add("--device", help="auto, cpu or cuda")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build it, and say where it is and how many frames got a neighbour."""
    from trocar.core.config import load
    from trocar.data.remote.store import is_remote
    from trocar.leakage.guard import RunGuard
    from trocar.ssl.neighbour_index import FACTOR, NeighbourIndexConfig, build_index

    given = {name: getattr(args, name) for name in ("catalog", *OPTIONS)}
    flags = [f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    config = load(NeighbourIndexConfig, None, [*args.overrides, *flags])

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    built = build_index(config, RunGuard(say), say)
    if built.bad:
        print(f"{built.bad} frames can't be read as ingested and were left out", file=sys.stderr)
    print(f"{built.near} of {built.frames} frames have a neighbour nearer than {FACTOR:g} x the frame before them")
    print(f"index written to {built.folder} ({built.search} search)")
    if is_remote(config.catalog):
        print(f"it is in this machine's copy of the catalog; for other machines: {config.catalog}/catalog/neighbours/")
    return 0
