"""`trocar export`: a run's backbone as a folder that timm loads by itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "export", help="write a run's backbone as a timm folder with a model card", description=__doc__
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder, checkpoint folder or exported backbone")
    parser.add_argument(
        "--out", type=Path, required=True, help="new folder for config.json, model.safetensors, README.md"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Copy the backbone and say how to load it."""
    from trocar.backbones.export import export_run

    source = export_run(args.folder, args.out)
    print(f"backbone of {source} written to {args.out}")
    print(f'load it with timm.create_model("local-dir:{args.out}", pretrained=True)')
    return 0
