"""`trocar ingest SRC [SRC ...] --out SHARDS`: videos or frames -> shards + catalog."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trocar.cli.shared_args import add_options, check, profile_of
from trocar.core.resources import usable_cores

if TYPE_CHECKING:
    from trocar.core.messages import Say
    from trocar.core.progress import Console
    from trocar.data.ingest.options import IngestOptions, IngestSummary, Progress
    from trocar.slurm.profile import Profile


def register(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "ingest",
        help="videos, frames or single pictures -> shards + catalog",
        description="Decode videos (or pack folders of frames, or single pictures) into WebDataset shards with a "
        "catalog. Running the same command again continues: finished videos are not decoded again.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SRC",
        help="a video, a folder of videos, of frame folders or of pictures; with --in-place a tar",
    )
    parser.add_argument("--out", required=True, metavar="SHARDS", help="folder for shards and catalog")
    _add_metadata(parser.add_argument_group("what the videos are"))
    parser.add_argument(
        "--pseudonymize",
        metavar="KEYFILE",
        help="replace file names and case ids by keyed hashes; the key is made if absent, and stays out of SHARDS",
    )
    _add_frames(parser.add_argument_group("pictures (also columns of videos.csv)"))
    _add_settings(parser.add_argument_group("frames to store"))
    _add_tars(parser.add_argument_group("tars that others wrote (WebDataset), read where they lie"))
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument("--allow-rejects", action="store_true", help="exit 0 although some videos were rejected")
    add_options(parser)
    # What the jobs of an array are told: decode one part, or put the catalog together.
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--merge", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run, continues=True)


def run(args: argparse.Namespace) -> int:
    """0 if every video is in the catalog, 1 if some were rejected (0 with --allow-rejects) or none is there."""
    from trocar.core.progress import Console
    from trocar.data.ingest.run import ingest

    check(args)
    options = _options(args)
    console = Console(stderr=True, highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    if args.slurm is not None:
        return _submit(args, options, say)
    started = time.monotonic()
    with _progress(
        console, "tars" if options.in_place else "packs of stills" if options.stills else "videos"
    ) as progress:
        summary = ingest(options, say, progress, part=args.part, merging=args.merge)
    _report(Console(highlight=False), summary, args.out, time.monotonic() - started)
    if summary.videos == 0 and args.part is None:
        console.print("nothing was ingested", markup=False)
        return 1
    if summary.rejected and not args.allow_rejects:
        console.print("some input was rejected: exit 1; --allow-rejects accepts that", markup=False)
        return 1
    return 0


def _options(args: argparse.Namespace) -> IngestOptions:
    from trocar.core.config import validate
    from trocar.data.ingest.framing import IngestSettings
    from trocar.data.ingest.options import IngestOptions

    tree = {key: value for key, value in vars(args).items() if key in IngestOptions.model_fields}
    settings = {key: value for key, value in vars(args).items() if key in IngestSettings.model_fields}
    wds = {key.removeprefix("wds_"): value for key, value in vars(args).items() if key.startswith("wds_")}
    return validate(IngestOptions, {**tree, "settings": settings, "wds": wds}, "command line")


def _submit(args: argparse.Namespace, options: IngestOptions, say: Say) -> int:
    """Submit what is missing, or print the scripts. Exit code 0."""
    from trocar.jobs.ingest_array import ingest_script, submit_ingest
    from trocar.slurm.submit import tell

    profile = profile_of(args).single()
    words = _words(args, profile)
    if args.dry_run:
        print(ingest_script(words, options, profile, say), end="")
        return 0
    for submission in submit_ingest(words, options, profile, say):
        tell(submission, print if submission.is_local else say)
    return 0


def _words(args: argparse.Namespace, profile: Profile) -> tuple[str, ...]:
    """The command line again, with what the parser has understood; workers as the profile has CPUs."""
    left_out = {"command", "sources", "run", "continues", "slurm", "slurm_set", "dry_run", "part", "merge", "workers"}
    words = ["ingest", *args.sources]
    for name, value in vars(args).items():
        if name in left_out or (value is None and name != "short_side") or value is False or value == "":
            continue
        flag = f"--{name.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            words.append(flag if item is True else f"{flag}={'none' if item is None else item}")
    workers = profile.cpus_per_task or args.workers
    return (*words, f"--workers={workers}")


def _add_metadata(group: Any) -> None:
    group.add_argument("--metadata", metavar="CSV", help="videos.csv (default: the one in or beside SRC)")
    group.add_argument("--source", metavar="NAME", help="data set of all these videos (default: folder name)")
    group.add_argument("--prefix", default="", metavar="TEXT", help="put before each video name")
    group.add_argument(
        "--case-regex", metavar="RE", help="(?P<case>...) and (?P<part>...) of a file name, of stills of their path"
    )
    group.add_argument("--exclude", metavar="CSV", help="video,start,end: seconds to leave out")
    group.add_argument("--masks", metavar="FILE", help="boxes to black out, by source (YAML or CSV)")


def _add_frames(group: Any) -> None:
    group.add_argument(
        "--stills",
        action="store_true",
        help="all pictures are single ones, of no time: a case each if nothing else says",
    )
    group.add_argument("--frames", metavar="PATTERN", help="where the number stands: '{number:06d}.jpg'")
    group.add_argument("--frames-fps", type=float, metavar="F", help="frame numbers per second")
    group.add_argument("--first-number", type=int, metavar="N", help="the number at time 0")


def _add_settings(group: Any) -> None:
    group.add_argument("--fps", type=float, default=argparse.SUPPRESS, help="frames per second of video (default: 1)")
    group.add_argument(
        "--short-side", type=_side, default=argparse.SUPPRESS, metavar="PX", help="pixels, or none (default: 256)"
    )
    group.add_argument("--jpeg-quality", type=int, default=90, metavar="Q", help="1..100 (default: 90)")
    group.add_argument("--crop", default=argparse.SUPPRESS, help="auto: cut black borders away; none (default: auto)")
    group.add_argument("--max-pixels", type=int, default=36_000_000, metavar="N", help="reject larger frames")
    group.add_argument("--max-hours", type=float, default=24.0, metavar="H", help="reject longer videos")
    group.add_argument("--max-damaged", type=int, default=0, metavar="N", help="damaged frames accepted per video")


def _add_tars(group: Any) -> None:
    where = "field of the JSON beside a picture"
    group.add_argument(
        "--in-place", action="store_true", help="SRC are tars, ranges such as data-{000..009}.tar, or folders of tars"
    )
    group.add_argument(
        "--unfit",
        choices=("transcode", "leave-out"),
        default=argparse.SUPPRESS,
        help="pictures that a run cannot read where they lie: written anew (default), or left out",
    )
    for name, what in (
        ("video", f"{where}: the video's name (default: each picture is a still)"),
        ("time", "the time in seconds, or with --frames-fps a frame number"),
        ("case", "the case id (default: a case per video or still)"),
        ("source", "the data set (default: --source, else the tar's name)"),
        ("hospital", "where it was recorded"),
        ("procedure", "kind of operation"),
        ("split", "tag of a split, or a list of tags"),
    ):
        group.add_argument(f"--wds-{name}", metavar="FIELD", help=what)
    group.add_argument("--wds-key", metavar="RE", help="(?P<video>...), (?P<time>...) and the like, of the whole key")
    group.add_argument("--wds-image", metavar="EXT", help="which picture of a key with several, such as left.jpg")


def _side(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


@contextmanager
def _progress(console: Console, unit: str) -> Iterator[Progress]:
    """A bar on a terminal; a line per tenth of the work where the output goes to a file. `unit` is what is counted."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(unit, total=None)

        def update(done: int, total: int, outcome: Any) -> None:
            bar.update(task, completed=done, total=total)
            if outcome is not None and not outcome.finished:
                rejected = outcome.rejected[0]
                line = f"rejected {rejected.path}: {rejected.reason}: {rejected.detail}"
                bar.console.print(line, markup=False, soft_wrap=True)
            if not console.is_terminal and done % max(1, total // 10) == 0:
                console.print(f"{done} of {total} {unit}", markup=False)

        yield update


def _report(console: Console, summary: IngestSummary, out: str, elapsed: float) -> None:
    from rich.table import Table

    from trocar.data.ingest.record import reason_counts

    table = Table(show_header=False, box=None)
    videos = f"{summary.ingested} videos, {summary.seconds / 3600:.2f} h"
    stills = [f"{summary.ingested_stills} stills"] if summary.ingested_stills else []
    table.add_row("ingested now", ", ".join([videos, *stills] if summary.ingested or not stills else stills))
    if summary.in_place:
        table.add_row("read in place", f"{summary.in_place} pictures")
    if summary.seconds:
        table.add_row("speed", f"{summary.seconds / max(elapsed, 1e-6):.0f} x real time")
    table.add_row("finished before", str(summary.finished_before))
    if summary.elsewhere:
        table.add_row("from other ingests", str(summary.elsewhere))
    for reason, count in reason_counts(summary.rejected).items():
        table.add_row("rejected", f"{count} {reason}")
    for what, counts in (("written anew", summary.transcoded), ("left out", summary.left_out)):
        for reason, number in sorted(counts.items()):
            table.add_row(what, f"{number} {reason}")
    if summary.damaged:
        table.add_row("damaged", f"{len(summary.damaged)} videos, {sum(summary.damaged)} frames; accepted")
    for note, count in sorted(summary.notes.items()):
        table.add_row("note", f"{count} videos: {note}")
    if summary.fingerprint:
        table.add_row("catalog", f"{_catalog(summary)} in {out}")
        table.add_row("fingerprint", summary.fingerprint[:16])
    console.print(table)
    for warning in filter(None, (summary.alike, summary.text)):
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if summary.rejected:
        console.print(f"rejected files with reasons: trocar inspect {out}", markup=False)


def _catalog(summary: IngestSummary) -> str:
    """What the whole catalog holds now."""
    videos = summary.videos - summary.stills
    if not summary.stills:
        return f"{videos} videos, {summary.frames} frames"
    kinds = [f"{videos} videos"] if videos else []
    return ", ".join([*kinds, f"{summary.stills} stills", f"{summary.cases} cases", f"{summary.frames} frames"])
