"""`trocar phantom`: small labelled synthetic surgery videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trocar.core.resources import usable_cores


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "phantom",
        help="small labelled synthetic surgery videos (two hospitals, three procedures)",
        description="Generate synthetic laparoscopy videos with phases, tools, CVS criteria and masks. The same "
        "options always give the same videos; more cases never change earlier ones, and the same command continues "
        "an interrupted phantom.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write to: new, or the same phantom")
    parser.add_argument(
        "--cases",
        type=int,
        default=20,
        help="operations; every fifth is recorded in two files, so 20 cases are 24 video files (default: 20)",
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="mean length of an operation (default: 2)")
    parser.add_argument("--size", default="320x240", help="WIDTHxHEIGHT in pixels, both even (default: 320x240)")
    parser.add_argument("--fps", type=int, default=5, help="frames per second (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other patients (default: 0)")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes (default: the usable cores)")
    parser.set_defaults(run=run, continues=True)


def run(args: argparse.Namespace) -> int:
    """Generate or complete the phantom; 0 when it is whole."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trocar.core.config import validate
    from trocar.core.progress import Console
    from trocar.phantom import PhantomSpec, generate, is_complete
    from trocar.phantom.corpus import check_folder

    given = {name: getattr(args, name) for name in ("cases", "minutes", "size", "fps", "seed")}
    spec = validate(PhantomSpec, given, "command line")
    check_folder(args.out, spec)
    if is_complete(args.out, spec):
        print(f"{args.out} is complete: nothing to do")
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("frames", total=None)
        generate(args.out, spec, args.workers, lambda done, total: bar.update(task, completed=done, total=total))
    _summary(args.out, spec.cases)
    return 0


def _summary(out: Path, cases: int) -> None:
    files = len(list((out / "videos").glob("*.mp4")))
    print(f"{cases} cases in {files} video files: {out / 'videos'}, listed in {out / 'videos.csv'}")
    print(f"phases: {out / 'phase_annotations'}; tools: {out / 'tool_annotations'}; CVS: {out / 'all_metadata.csv'}")
    print(f"masks: {out / 'semseg'} ({out / 'seg_label_map.txt'}); frames to curate away: {out / 'planted.csv'}")
