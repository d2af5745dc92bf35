"""`trocar presets {list,show,copy}`: the configurations that come with the package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trocar.errors import ConfigError


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("presets", help="list, show or copy the configurations in the box")
    actions = parser.add_subparsers(dest="action", metavar="{list,show,copy}", required=True)
    actions.add_parser("list", help="names, each with its first line").set_defaults(run=run_list)
    show = actions.add_parser("show", help="print a preset")
    show.add_argument("name")
    show.set_defaults(run=run_show)
    copy = actions.add_parser("copy", help="copy a preset, to change it")
    copy.add_argument("name")
    copy.add_argument("target", type=Path, help="file to write; an existing one is not touched")
    copy.set_defaults(run=run_copy)


def run_list(args: argparse.Namespace) -> int:
    """One line per preset."""
    from trocar.core.config import find_preset, preset_names

    names = preset_names()
    for name in names:
        first = find_preset(name).read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:{max(map(len, names))}s}  {first.lstrip('# ')}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """The file as it is."""
    from trocar.core.config import find_preset

    print(find_preset(args.name).read_text(encoding="utf-8"), end="")
    return 0


def run_copy(args: argparse.Namespace) -> int:
    """Copy without overwriting."""
    from trocar.core.config import find_preset
    from trocar.core.files import write_atomic

    source = find_preset(args.name)
    if args.target.exists():
        raise ConfigError(f"{args.target} exists; choose another name")
    write_atomic(args.target, source.read_bytes())
    print(args.target)
    return 0
