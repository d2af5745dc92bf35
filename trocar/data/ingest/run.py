"""`trocar ingest`: plan the jobs, run those that are not finished, build the catalog from all finished videos."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from trocar.data.ingest import record
from trocar.data.ingest.jobs import plan
from trocar.data.ingest.options import IngestOptions, IngestSummary, Progress, Say
from trocar.data.ingest.output_folder import (
    begun,
    claim_pseudonyms,
    count,
    disk_trouble,
    finish,
    forget_packs,
    is_finished,
    make_folders,
    only_one,
    refuse_foreign,
    refuse_namesake,
    sweep,
    withdraw_catalog,
)
from trocar.data.ingest.pack import Work
from trocar.data.ingest.pool import run_jobs
from trocar.data.ingest.record import VideoRecord
from trocar.data.ingest.tars.in_place import run_in_place
from trocar.data.ingest.video import Job


def run_ingest(options: IngestOptions, say: Say, progress: Progress) -> IngestSummary:
    """Do it; `say` gets lines for the user, `progress(done, total, outcome)` is called after each video.

    Running it again does only what is not finished. Raises ConfigError for bad arguments before anything is written,
    TrocarError for a full disk or a second ingest of the same folder.
    """
    if options.in_place:
        return run_in_place(options, say, progress)
    jobs = plan(options, say)
    root = options.out
    summary = IngestSummary()
    with disk_trouble(root):
        refuse_foreign(root)
        make_folders(root)
        with only_one(root):
            claim_pseudonyms(options)
            suspects = begun(root)
            sweep(root, options.sources, {job.name for job in jobs})
            before = {job.name: record.load(root, job.name) for job in jobs}
            for job in jobs:
                refuse_namesake(job, before[job.name])
            forget_packs(root, jobs)
            decode(jobs, before, options, summary, progress, suspects=suspects)
            finish(root, jobs, summary)
    return summary


def decode(
    jobs: Sequence[Work],
    before: Mapping[str, VideoRecord | None],
    options: IngestOptions,
    summary: IngestSummary,
    progress: Progress,
    *,
    suspects: Collection[str] = (),
    confirm: Callable[[], None] = lambda: None,
) -> None:
    """Decode the videos that their records `before` do not have finished; `summary` counts all of them.

    `suspects` get a process each; `confirm` raises when this process may do no more, and is asked after each video.
    """
    todo = [job for job in jobs if not is_finished(job, before[job.name], summary)]
    withdraw_catalog(options.out, todo)
    threads = max(1, options.workers // max(1, len(todo)))
    progress(0, len(todo), None)
    ready = [replace(job, threads=threads) if isinstance(job, Job) else job for job in todo]
    outcomes = run_jobs(ready, options.workers, suspects)
    for done, outcome in enumerate(outcomes, start=1):
        confirm()
        count(summary, outcome)
        progress(done, len(todo), outcome)
