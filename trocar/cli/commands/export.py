"""`trocar export`: a backbone as a folder that timm loads by itself, or as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "export", help="write a backbone as a timm folder with a model card, or as ONNX", description=__doc__
    )
    parser.add_argument(
        "source", metavar="BACKBONE", help="run, checkpoint or exported folder, published name, NAME@FILE or ARCH@FILE"
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder (timm) or file (onnx)")
    parser.add_argument("--format", choices=["timm", "onnx"], default="timm", help="default: timm")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write it and say how to load it."""
    if args.format == "onnx":
        return _onnx(args.source, args.out)
    from trocar.backbones.export import export_timm
    from trocar.backbones.source import is_timms, resolve
    from trocar.leakage.exposure import RecordedHistory

    source = export_timm(args.source, args.out, RecordedHistory())
    print(f"backbone of {source} written to {args.out}")
    if is_timms(resolve(args.out).architecture):
        print(f'load it with timm.create_model("local-dir:{args.out}", pretrained=True)')
    else:
        print(
            f'import the module that registers its architecture, then load it with trocar.load_backbone("{args.out}")'
        )
    return 0


def _onnx(source: str, out: Path) -> int:
    from trocar.backbones import load_backbone
    from trocar.backbones.export import export_onnx
    from trocar.backbones.preprocess import describe_backbone
    from trocar.errors import ConfigError

    if out.suffix != ".onnx":
        raise ConfigError(f"--out {out}: give a file name that ends in .onnx")
    model = load_backbone(source)
    worst = export_onnx(model, out)
    shape = describe_backbone(model)
    print(f"backbone of {source} written to {out}; onnxruntime and torch agree to {worst:.1e} of the largest feature")
    height, width = shape.size
    print(f"input images [batch, 3, {height}, {width}], mean {shape.mean}, std {shape.std}; output features")
    return 0
