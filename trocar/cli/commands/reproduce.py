"""`trocar reproduce`: measure a published number on your copy of its data, and print both side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "reproduce", help="a published number, measured again on your copy of the data", description=__doc__
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="what to reproduce (see --list), or a YAML file of your own")
    add("--list", action="store_true", help="what can be reproduced, and what was published")
    add("--data", type=Path, help="folder of the data set, as downloaded")
    add(
        "--out", type=Path, help="folder for reproduce.json and what `trocar evaluate` writes (default: reproduce-NAME)"
    )
    add("--device", help="auto, cpu or cuda")
    add("--cache", help="folder for decoded frames and features (default: OUT/cache)")
    parser.set_defaults(run=run, continues=True)


def run(args: argparse.Namespace) -> int:
    """0 if the measured number is within the tolerance, 1 if not."""
    from trocar.core.progress import Console
    from trocar.downstream.reproduce import names, reproduce
    from trocar.errors import ConfigError
    from trocar.leakage import judge

    if args.list:
        return _list()
    if args.name is None:
        raise ConfigError(f"name what to reproduce; there is: {', '.join(names())}")
    if args.data is None:
        raise ConfigError("--data is needed: the folder of the data set, as downloaded from its owners")
    out = args.out if args.out is not None else Path(f"reproduce-{Path(args.name).stem}")
    overrides = [
        f"{key}={json.dumps(value)}" for key in ("device", "cache") if (value := getattr(args, key)) is not None
    ]
    errors = Console(stderr=True, highlight=False)
    found = reproduce(args.name, args.data, out, judge, overrides, say=lambda line: errors.print(line, markup=False))
    print("\n".join(found.lines()))
    print(f"reproduce.json is in {out}")
    return 0 if found.verdict == "within" else 1


def _list() -> int:
    from trocar.downstream.reproduce import names, read

    width = max(map(len, names()))
    for name in names():
        experiment = read(name)
        target = experiment.target
        print(f"{name:{width}s}  {target.metric} {target.value:.4f} ± {target.tolerance:.4f}  {experiment.about}")
    return 0
