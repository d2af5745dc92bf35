"""From the arguments of an ingest to one job per video and pack of stills: sources, metadata, masks, exclusions,
pseudonyms. And the jobs over worker processes, whose end is never the end of the ingest's bookkeeping.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from trocar.core.config import fingerprint
from trocar.core.messages import Say
from trocar.data.catalog.writer import Rejected
from trocar.data.ingest import record
from trocar.data.ingest.framing import Box
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.pack import DIED, PACK, Pack, Still, Work, pack_name
from trocar.data.ingest.record import Metadata
from trocar.data.ingest.sources.choice import choose, count, some, table_of
from trocar.data.ingest.sources.find import FoundSource, find, list_frames, part_warning, prefixed, printable, unmatched
from trocar.data.ingest.sources.metadata import (
    Lookup,
    VideoTable,
    frame_spec,
    matches,
    metadata_of,
    read_exclude,
    read_masks,
)
from trocar.data.ingest.video import Job, JobOutcome
from trocar.errors import ConfigError
from trocar.privacy.aliases import Aliases, Pseudonyms


@dataclass(frozen=True)
class _About:
    """What is known beside the files: by path of a video or still, by source, by name."""

    metadata: Mapping[Path, Metadata]
    masks: Mapping[str, tuple[Box, ...]]
    excluded: Mapping[str, tuple[tuple[float, float], ...]]
    pseudonyms: Pseudonyms | None


def plan(options: IngestOptions, say: Say) -> list[Work]:
    """One job per video, by name, then one per pack of stills. Raises ConfigError for anything in the arguments that is
    wrong.
    """
    if options.in_place:
        raise ConfigError("--in-place reads tars in one process group: run it on one machine, without --slurm")
    sources = prefixed(find(options.sources, options.source, stills=options.stills), options.prefix)
    pseudonyms = pseudonyms_of(options)
    if pseudonyms is not None:
        say = _without_names(say, [*sources.items, *sources.beside])
    table = table_of(options, sources, say)
    found, stills = choose(sources, table, options, say, shown=pseudonyms is None)
    about = _about(found, stills, table, options, pseudonyms, say)
    jobs = [_job(item, about, table, options, say) for item in found]
    packs = _packs(stills, about, options, say)
    if pseudonyms is not None:
        for item in (*found, *stills):
            _refuse_folder_name(item, table, options)
        rows = [(item.shown, item.name, about.metadata[item.path].case_id) for item in (*found, *stills)]
        noted = [(shown, pseudonyms.video(name), case, pseudonyms.case(case)) for shown, name, case in rows]
        say(f"names and their pseudonyms: {pseudonyms.note(noted)}")
    return [*sorted(jobs, key=lambda job: job.name), *packs]


def pseudonyms_of(options: IngestOptions) -> Pseudonyms | None:
    """The key of an ingest with --pseudonymize."""
    return None if options.pseudonymize is None else Pseudonyms.load(options.pseudonymize, options.out)


def _about(
    found: Sequence[FoundSource],
    stills: Sequence[FoundSource],
    table: VideoTable,
    options: IngestOptions,
    pseudonyms: Pseudonyms | None,
    say: Say,
) -> _About:
    items = [*found, *stills]
    cases_known = options.case_regex is not None or any(row.get("case_id") for row in table.rows.values())
    if not cases_known and (warning := part_warning([item.name for item in found])):
        say(f"warning: {warning}")
    if options.case_regex is not None:
        _check_regex(options.case_regex, items, say)
    metadata = {item.path: metadata_of(item, table, options.case_regex, options.source) for item in items}
    renamed = {pseudonyms.video(item.name): item for item in items} if pseudonyms is not None else {}
    excluded = read_exclude(options.exclude, Lookup(items, options.prefix, renamed)) if options.exclude else {}
    masks = read_masks(options.masks, sorted({meta.source for meta in metadata.values()})) if options.masks else {}
    return _About(metadata, masks, excluded, pseudonyms)


def _job(item: FoundSource, about: _About, table: VideoTable, options: IngestOptions, say: Say) -> Job:
    metadata, pseudonyms = about.metadata[item.path], about.pseudonyms
    job = Job(
        name=item.name,
        path=item.path,
        shown=item.shown,
        root=options.out,
        key="",
        settings=options.settings,
        metadata=metadata,
        frames=frame_spec(item, table, options.model_dump()) if item.is_folder else None,
        masks=about.masks.get(metadata.source, ()),
        excluded=about.excluded.get(item.name, ()),
    )
    _warn_of_strangers(job, say)
    if pseudonyms is not None:
        name, case = pseudonyms.video(job.name), pseudonyms.case(metadata.case_id)
        job = replace(job, name=name, shown=name, metadata=replace(metadata, case_id=case), pseudonymous=True)
    return replace(job, key=_key(job, say, pseudonyms))


def _packs(items: Sequence[FoundSource], about: _About, options: IngestOptions, say: Say) -> list[Pack]:
    """Stills by name, some hundred to a pack. A still whose first moment is excluded stays out."""
    out = {item.name for item in items if any(start <= 0 < end for start, end in about.excluded.get(item.name, ()))}
    if out:
        say(f"{count(len(out), 'still')} excluded")
    stills = [_still(item, about) for item in items if item.name not in out]
    stills.sort(key=lambda still: still.name)
    packs = [_pack(stills[start : start + PACK], about, options) for start in range(0, len(stills), PACK)]
    if stills:
        cases = {(still.metadata.source, still.metadata.case_id) for still in stills}
        alone = ", each a case of its own" if len(cases) == len(stills) > 1 else ""
        say(f"{count(len(stills), 'still')} of {count(len(cases), 'case')}{alone}, in {count(len(packs), 'pack')}")
    return packs


def _pack(stills: Sequence[Still], about: _About, options: IngestOptions) -> Pack:
    name, hidden = pack_name([still.name for still in stills]), about.pseudonyms is not None
    pack = Pack(name, options.out, "", options.settings, tuple(stills), pseudonymous=hidden)
    return replace(pack, key=_pack_key(pack, about.pseudonyms))


def _still(item: FoundSource, about: _About) -> Still:
    metadata = about.metadata[item.path]
    still = Still(item.name, item.path, item.shown, metadata, about.masks.get(metadata.source, ()))
    if about.pseudonyms is None:
        return still
    name, case = about.pseudonyms.video(item.name), about.pseudonyms.case(metadata.case_id)
    return replace(still, name=name, shown=name, metadata=replace(metadata, case_id=case))


def _without_names(say: Say, found: Sequence[FoundSource]) -> Say:
    names = {name for item in found for name in (item.name, item.path.name, item.path.stem, item.shown)}
    hidden = Aliases(names)
    return lambda line: say(hidden.text(line))


def _refuse_folder_name(item: FoundSource, table: VideoTable, options: IngestOptions) -> None:
    """Raises ConfigError where a folder's name would become the source: it may be a hospital's or a patient's."""
    if options.source is None and not table.row(item).get("source"):
        raise ConfigError(
            f"--pseudonymize: say --source (or give videos.csv a column source); else the folder's name "
            f"{item.default_source!r} would stand in the catalog"
        )


def _warn_of_strangers(job: Job, say: Say) -> None:
    """Images that the pattern of a frame folder passes over are not dropped in silence."""
    if job.frames is None:
        return
    if strangers := unmatched(job.path, job.frames):
        names = ", ".join(map(printable, strangers[:3])) + (" ..." if len(strangers) > 3 else "")
        where = f"{len(strangers)} images do not match --frames {job.frames.pattern!r} and are left out"
        say(f"warning: {job.name}: {where}" + ("" if job.pseudonymous else f": {names}"))


def _check_regex(regex: str, items: Collection[FoundSource], say: Say) -> None:
    unmatched = sorted(item.cased_by for item in items if not matches(item.cased_by, regex))
    if len(unmatched) == len(items):
        raise ConfigError(f"--case-regex {regex!r} matches no video as a whole, such as {unmatched[0]!r}")
    if unmatched:
        kinds = "stills" if all(item.is_still for item in items) else "videos"
        say(f"warning: --case-regex does not match {len(unmatched)} {kinds}, each its own case: {some(unmatched)}")


def _key(job: Job, say: Say, pseudonyms: Pseudonyms | None) -> str:
    """What the frames of a video follow from: size and time stamp of its file or files, and the settings.

    It stands in the record, so a pseudonymous one is made of pseudonyms: names could be tried out against its hash.
    """
    alias = printable if pseudonyms is None else pseudonyms.file
    if job.frames is None:
        files = [_stamp(job.path, alias)]
    else:
        listed = list_frames(job.path, job.frames)
        times = f"{listed[0].time_s:.2f} s to {listed[-1].time_s:.2f} s"
        first, last = (printable(listed[i].path.name) for i in (0, -1))
        say(f"{job.name}: {len(listed)} files, " + ("" if pseudonyms else f"{first} to {last} are ") + times)
        files = [_stamp(frame.path, alias) for frame in listed]
    spec = vars(job.frames) if job.frames else None
    tree = {"files": files, "settings": job.settings.identity(), "frames": spec}
    return fingerprint(tree | {"masks": job.masks, "excluded": repr(job.excluded)})


def _pack_key(pack: Pack, pseudonyms: Pseudonyms | None) -> str:
    """The same of a pack, whose pictures have no rate."""
    alias = printable if pseudonyms is None else pseudonyms.file
    stills = [(still.name, _stamp(still.path, alias), still.masks) for still in pack.stills]
    settings = {key: value for key, value in pack.settings.identity().items() if key != "fps"}
    return fingerprint({"stills": stills, "settings": settings})


def _stamp(path: Path, alias: Callable[[str], str]) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return alias(path.name), -1, -1
    return alias(path.name), status.st_size, status.st_mtime_ns


class PooledJob(Protocol):
    """What a worker does at a time: a video, a pack of stills, a tar of others."""

    @property
    def name(self) -> str:
        """Its name in the shards folder."""

    @property
    def root(self) -> Path:
        """The shards folder."""

    @property
    def shown(self) -> str:
        """For messages."""

    @property
    def bytes(self) -> int:
        """Size of the source."""

    def run(self) -> JobOutcome:
        """Do it."""

    def after_crash(self) -> PooledJob | None:
        """What is left to do when its process died; None for nothing."""


def run_jobs(jobs: Sequence[PooledJob], workers: int, suspects: Collection[str] = ()) -> Iterator[JobOutcome]:
    """Outcomes in order of completion. With one worker everything runs in this process.

    A video whose decoding kills its process is found by running what was left one by one, and is rejected. `suspects`
    name those that may have ended an ingest of one process: they get a process of their own.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from (_alone(job) if job.name in suspects else _run(job) for job in jobs)
        return
    left = {job.name: job for job in jobs}
    try:
        for outcome in _pooled(jobs, workers):
            del left[outcome.name]
            yield outcome
    except BrokenProcessPool:
        for job in left.values():
            yield _alone(job)


def _pooled(jobs: Sequence[PooledJob], workers: int) -> Iterator[JobOutcome]:
    # The workers hold one end, the kernel closes the other when this process ends, however that happens.
    alive, held = multiprocessing.Pipe(duplex=False)
    # A server that has the imports done once forks workers in no time, and they share its memory.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trocar.data.ingest.jobs"])
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_begin, initargs=(alive,))
    try:
        # The largest first: a long video that begins last would leave the other workers idle.
        ordered = sorted(jobs, key=lambda job: job.bytes, reverse=True)
        futures: set[Future[JobOutcome]] = {pool.submit(_run, job) for job in ordered}
        while futures:
            done, futures = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        pool.shutdown()
    except BaseException:
        # Ctrl-C, a full disk or a lost worker: the others are in the middle of videos that nobody waits for.
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        held.close()
        alive.close()


def _run(job: PooledJob) -> JobOutcome:
    return job.run()


def _alone(job: PooledJob) -> JobOutcome:
    left: PooledJob | None = job
    while left is not None:
        try:
            (outcome,) = _pooled([left], 1)
        except BrokenProcessPool:
            left = left.after_crash()
        else:
            return outcome
    rejected = Rejected(job.shown, *DIED)
    record.save_rejected(job.root, job.name, rejected)
    return JobOutcome(job.name, rejected=(rejected,), finished=False)


def _begin(alive: Connection) -> None:
    # The ingest's own process decides what Ctrl-C and a cluster's warnings mean, which all processes of a job get.
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_follow, args=(alive,), daemon=True).start()


def _follow(alive: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        alive.recv()
    os._exit(1)
