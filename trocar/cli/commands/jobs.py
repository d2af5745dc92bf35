"""`trocar jobs`: what was submitted from this directory, how far it is, and what to do about it."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocar.slurm.job_states import JobState, Submission

BAD = ("FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")
MOST_LOGS = 5


def register(subparsers: Any) -> None:
    """Declare `trocar jobs {list,cancel,resubmit,sync}`; without a word it lists."""
    parser = subparsers.add_parser(
        "jobs", help="what was submitted with --slurm from this directory: state, progress, cancel, resubmit"
    )
    parser.set_defaults(run=run_list, jobs=[], log=1)
    actions = parser.add_subparsers(dest="action", metavar="{list,cancel,resubmit,sync}")
    listing = actions.add_parser(
        "list", help="state, steps, images/s, time left, last checkpoint, last lines of the log"
    )
    listing.add_argument("--log", type=int, default=1, metavar="N", help="lines of each log (default: %(default)s)")
    cancelling = actions.add_parser("cancel", help="cancel jobs; a run saves first, and stays cancelled")
    resubmitting = actions.add_parser("resubmit", help="submit again what failed; a run goes on where it was")
    resubmitting.add_argument("out", type=Path, metavar="FOLDER", help="an output folder that jobs were submitted for")
    resubmitting.add_argument("stages", nargs="*", help="of a graph (default: all that failed), with all behind them")
    syncing = actions.add_parser("sync", help="bring mlflow up to date with the runs of all jobs, from this host")
    for action, run in (
        (listing, run_list),
        (cancelling, run_cancel),
        (syncing, run_sync),
    ):
        needed = "+" if run is run_cancel else "*"
        action.add_argument("jobs", nargs=needed, metavar="JOB|FOLDER", help="job ids or output folders (default: all)")
        action.set_defaults(run=run)
    resubmitting.set_defaults(run=run_resubmit)


def run_list(args: argparse.Namespace) -> int:
    """A table of all jobs; the last lines of the logs of those that run or have failed below."""
    from trocar.core.progress import Console
    from trocar.slurm.job_states import states

    submissions = _chosen(args.jobs)
    if not submissions:
        print("nothing was submitted from this directory; give output folders to look at others")
        return 0
    found = states(submissions)
    # Output folders are long; in a file or a pipe a line has no end.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=200)
    console.print(_table(submissions, found))
    for submission in submissions:
        _print_log(submission, found, args.log)
    return 0


def run_cancel(args: argparse.Namespace) -> int:
    """Cancel what waits or runs of these jobs."""
    from trocar.slurm.graph import cancel
    from trocar.slurm.job_states import states

    submissions = _chosen(args.jobs)
    found = states(submissions)
    wanted = {word for word in args.jobs if re.fullmatch(r"\d+_\d+", word)}  # single elements of arrays
    active = [(s, job) for s in submissions for job in s.ids if found[job].is_active and (not wanted or job in wanted)]
    for submission, _ in active:
        if submission.is_local:
            _stop_process(int(submission.job))
    # A whole array by its own id: thousands of elements are one word.
    ids = {job if wanted else s.job for s, job in active if not s.is_local}
    if ids:
        cancel(sorted(ids))
    print(f"cancelled {', '.join(sorted({job if wanted else s.job for s, job in active})) or 'nothing: all had ended'}")
    return 0


def run_resubmit(args: argparse.Namespace) -> int:
    """Submit the last job of a folder again, or stages of a graph with their dependents."""
    from trocar.core.config import validate
    from trocar.slurm import graph
    from trocar.slurm import job_states as records
    from trocar.slurm.profile import Profile
    from trocar.slurm.submit import submit, tell

    before = records.submitted_for(args.out)[-1]
    if before.elements:
        jobs = graph.resubmit(args.out, args.stages).jobs
        again = [s for s in records.submitted_for(args.out) if s.submitted > before.submitted]
        print(f"submitted {sum(len(set(s.ids) & set(jobs.values())) for s in again)} stages again")
        for submission in again:
            tell(submission, print)
        return 0
    profile = validate(Profile, before.profile, "the profile of the earlier job")
    run = args.out if before.name == "pretrain" else None
    tell(submit(before.words, args.out, profile, run=run, cwd=Path(before.cwd)), print)
    return 0


def run_sync(args: argparse.Namespace) -> int:
    """mlflow for every run folder of these jobs, by the tracking section of its configuration; 1 if one fails."""
    from trocar.errors import TrocarError
    from trocar.runs.mlflow_sync import DEFAULT_EXPERIMENT, sync
    from trocar.runs.run_folder import read_config

    failed = False
    for out in dict.fromkeys(Path(s.out) for s in _chosen(args.jobs)):
        if not (out / "run.json").is_file():
            continue
        tracking = read_config(out).get("tracking", {})
        if tracking.get("uri") == "none":
            continue
        try:
            result = sync(out, tracking.get("uri"), tracking.get("experiment", DEFAULT_EXPERIMENT))
        except TrocarError as error:
            print(f"{out}: {error}")
            failed = True
        else:
            print(f"{out}: {result.status}, {result.new_values} new values")
    return int(failed)


def _chosen(words: Sequence[str]) -> list[Submission]:
    """By job id or output folder; all of this directory without words. Raises ConfigError for any other word."""
    from trocar.errors import ConfigError
    from trocar.slurm import job_states as records

    here = records.submitted_from(Path.cwd())
    if not words:
        return here
    chosen: list[Submission] = []
    for word in words:
        by_id = [s for s in here if s.job == word.partition("_")[0]]
        if not by_id and not Path(word).is_dir():
            known = ", ".join(s.job for s in here[-5:]) or "none"
            raise ConfigError(f"{word}: no job submitted from this directory, and no folder; the last ones: {known}")
        chosen += by_id or records.submitted_for(Path(word))
    return chosen


def _table(submissions: Sequence[Submission], found: dict[str, JobState]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from trocar.runs.run_folder import run_progress
    from trocar.slurm import job_states

    columns = ("job", "command", "state", "step", "images/s", "left", "checkpoint", "requeues", "output folder")
    table = Table(*columns, box=None)
    for submission in submissions:
        mine = [found[job] for job in submission.ids]
        if submission.elements:
            counts = Counter(state.state for state in mine)
            table.add_row(
                submission.job,
                submission.name,
                ", ".join(f"{number} {state}" for state, number in sorted(counts.items())),
                *[""] * 5,
                escape(submission.out),
            )
            continue
        progress = run_progress(Path(submission.out))
        starts = [e for e in job_states.read(Path(submission.folder), submission.job) if e["event"] == "start"]
        table.add_row(
            submission.job,
            submission.name,
            escape(" ".join(filter(None, (mine[0].state, f"({mine[0].reason})" if mine[0].reason else "")))),
            f"{progress.step or 0}/{progress.total}" if progress.total else "",
            f"{progress.images_per_s:.0f}" if progress.images_per_s else "",
            _duration(progress.left_s) if mine[0].state == "RUNNING" else "",
            str(progress.checkpoint or ""),
            str(max(0, len(starts) - 1)),
            escape(submission.out),
        )
    return table


def _print_log(submission: Submission, found: dict[str, JobState], number: int) -> None:
    from trocar.runs.run_folder import last_lines

    shown = [job for job in submission.ids if found[job].state in ("RUNNING", *BAD)] if number else []
    # Of an array the failures: what runs well needs no look.
    shown = [job for job in shown if not submission.elements or found[job].state in BAD]
    for job in shown[:MOST_LOGS]:
        words = (job, submission.elements.get(job.partition("_")[2]), found[job].state)
        print(f"{' '.join(filter(None, words))}: {submission.log(job)}")
        for line in last_lines(submission.log(job), number):
            print(f"    {line}")
    if len(shown) > MOST_LOGS:
        print(f"... and {len(shown) - MOST_LOGS} more elements of {submission.job}")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _stop_process(pid: int) -> None:
    import os
    import signal
    from contextlib import suppress

    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
