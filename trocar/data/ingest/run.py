"""`trocar ingest`: plan the jobs, run those that are not finished, build the catalog from all finished videos.

Also in parts that don't know of each other: each decodes its own videos, a merge writes the catalog.

    split      which videos are missing, in parts of similar size; a file holds them
    run_part   decodes the videos of one part; writes shards and records, no catalog
    merge      the catalog of all finished videos, with what is still missing

The parts are fixed when they are split: a part that worked out what is missing by itself would see the videos that
others have finished meanwhile. Running a part again does only what is missing of it.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trocar.core.config import fingerprint
from trocar.core.files import write_json_atomic
from trocar.core.messages import Say
from trocar.data.ingest import record
from trocar.data.ingest.jobs import plan, run_jobs
from trocar.data.ingest.options import IngestOptions, IngestSummary, Progress
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
from trocar.data.ingest.record import VideoRecord
from trocar.data.ingest.tars.in_place import run_in_place
from trocar.data.ingest.video import Job
from trocar.errors import ConfigError, TrocarError
from trocar.runs.lease import Lease


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


def split(options: IngestOptions, say: Say, most: int) -> list[list[str]]:
    """Names of the videos that aren't finished, in at most `most` parts of similar size in bytes. Writes nothing.

    Raises ConfigError for anything in the arguments that is wrong, as `run_ingest` does.
    """
    jobs = plan(options, say)
    refuse_foreign(options.out)
    before = {job.name: record.load(options.out, job.name) for job in jobs}
    for job in jobs:
        refuse_namesake(job, before[job.name])
    todo = [job for job in jobs if not is_finished(job, before[job.name])]
    # The largest video first, each to the part that has least: long ones end up in parts of their own.
    parts: list[tuple[int, int, list[str]]] = [(0, number, []) for number in range(min(most, len(todo)))]
    for job in sorted(todo, key=lambda job: (-job.bytes, job.name)):
        size, number, names = parts[0]
        heapq.heapreplace(parts, (size + job.bytes, number, [*names, job.name]))
    return [names for _, _, names in sorted(parts, key=lambda part: part[1])]


def write_parts(folder: Path, parts: Sequence[Sequence[str]]) -> Path:
    """Keep the parts in a file of their own, for `--part FILE:NUMBER`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"parts-{fingerprint(parts)}.json"
    write_json_atomic(path, parts)
    return path


def read_part(text: str) -> list[str]:
    """The names of `FILE:NUMBER`. Raises ConfigError."""
    file, _, number = text.rpartition(":")
    try:
        parts = json.loads(Path(file).read_text(encoding="utf-8"))
        return [str(name) for name in parts[int(number)]]
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise ConfigError(f"--part {text}: not FILE:NUMBER of a list of parts ({error})") from None


def run_part(options: IngestOptions, part: str, say: Say, progress: Progress) -> IngestSummary:
    """Decode the videos of one part that are not finished; the summary counts them alone.

    Raises TrocarError while another copy of the same part (a job that SLURM started again) is at work.
    """
    names = set(read_part(part))
    jobs = [job for job in plan(options, say) if job.name in names]
    root, summary = options.out, IngestSummary()
    with disk_trouble(root):
        refuse_foreign(root)
        make_folders(root)
        with only_one(root, shared=True), Lease.acquire(Path(f"{part.replace(':', '-')}.lease")) as lease:
            claim_pseudonyms(options)
            before = {job.name: record.load(root, job.name) for job in jobs}
            decode(jobs, before, options, summary, progress, confirm=lease.check)
    summary.videos = len(jobs) - len([item for item in jobs if record.load(root, item.name) is None])
    return summary


def merge(options: IngestOptions, say: Say) -> IngestSummary:
    """Write the catalog of all finished videos.

    Raises TrocarError when a video of the sources is neither finished nor rejected: its part failed. The catalog is
    written all the same, without it.
    """
    jobs = plan(options, say)
    root, summary = options.out, IngestSummary()
    with disk_trouble(root):
        refuse_foreign(root)
        make_folders(root)
        with only_one(root):
            sweep(root, options.sources, {job.name for job in jobs})
            forget_packs(root, jobs)
            missing = []
            for job in jobs:
                if is_finished(job, record.load(root, job.name), summary):
                    continue
                if (rejected := record.rejection_of(root, job.name)) is not None:
                    summary.rejected.append(rejected)
                else:
                    missing.append(job.name)
            finish(root, jobs, summary)
    if missing:
        raise TrocarError(
            f"{len(missing)} of {len(jobs)} videos are missing, their parts failed (such as {missing[0]}); the catalog "
            f"has the other {summary.videos}. Run the same command again: it decodes only these"
        )
    return summary


def ingest(
    options: IngestOptions,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total, outcome: None,
    *,
    part: str | None = None,
    merging: bool = False,
) -> IngestSummary:
    """Videos, frames or stills -> shards and catalog; the summary counts what this call did and what there is now.

    Running it again does only what is not finished. `progress(done, total, outcome)` is called after each video. As a
    job of an array it does one `part` (`FILE:NUMBER`), or `merging`, which writes the catalog of all parts. Raises
    ConfigError for bad options before anything is written, TrocarError for a full disk or a second ingest of `out`.
    """
    if part is not None:
        return run_part(options, part, say, progress)
    return merge(options, say) if merging else run_ingest(options, say, progress)
