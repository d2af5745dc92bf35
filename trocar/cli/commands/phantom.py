"""`trocar phantom`: small labelled synthetic surgery videos."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, help="another seed, other patients (default: 0)")
    seeds.add_argument(
        "--corpus",
        choices=("pages", "A", "B"),
        help="the seed kept for a purpose: pages and demos (0), choosing (A) or confirming (B); see docs/phantom.md",
    )
    parser.add_argument(
        "--talk",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="how much of narration.csv can be believed: offset_s, omitted, off_topic, errors (docs/phantom.md)",
    )
    parser.add_argument(
        "--depth",
        action="store_true",
        help="instead: videos of a camera that moves over tissue, still or breathing, with the depth of every pixel",
    )
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes (default: the usable cores)")
    parser.set_defaults(run=run, continues=True)


def run(args: argparse.Namespace) -> int:
    """Generate or complete the phantom; 0 when it is whole."""
    from trocar.core.config import tree_of, validate
    from trocar.phantom import PhantomSpec, generate, is_complete
    from trocar.phantom.corpus import check_folder
    from trocar.phantom.relief import write_reliefs
    from trocar.phantom.spec import CORPORA

    given = {name: getattr(args, name) for name in ("cases", "minutes", "size", "fps", "seed")}
    if args.corpus is not None:
        given["seed"] = CORPORA[args.corpus]
    talk = tree_of(None, [f"talk.{change}" for change in args.talk])
    spec = validate(PhantomSpec, given | talk, "command line")
    if args.depth:
        with _bar() as progress:
            write_reliefs(args.out, spec, progress)
        print(f"{spec.cases} videos: {args.out / 'videos'}; depth in hundredths of a millimetre: {args.out / 'depth'}")
        print(f"cameras: {args.out / 'cameras.csv'}; which tissue deforms: {args.out / 'reliefs.csv'}")
        return 0
    check_folder(args.out, spec)
    if is_complete(args.out, spec):
        print(f"{args.out} is complete: nothing to do")
        return 0
    with _bar() as progress:
        generate(args.out, spec, args.workers, progress)
    _summary(args.out, spec.cases)
    return 0


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of frames on the terminal, and what moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trocar.core.progress import Console

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("frames", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _summary(out: Path, cases: int) -> None:
    files = len(list((out / "videos").glob("*.mp4")))
    print(f"{cases} cases in {files} video files: {out / 'videos'}, listed in {out / 'videos.csv'}")
    print(f"phases: {out / 'phase_annotations'}; tools: {out / 'tool_annotations'}; CVS: {out / 'all_metadata.csv'}")
    print(f"masks: {out / 'semseg'} ({out / 'seg_label_map.txt'}); boxes of tools: {out / 'tool_boxes.csv'}")
    print(f"what comes next: {out / 'anticipation.csv'}; what is said: {out / 'narration.csv'}")
    print(f"frames to curate away: {out / 'planted.csv'}")
