"""`trocar ingest`: plan the jobs, run those that are not finished, build the catalog from all finished videos."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import Field

from trocar.config import Config, fingerprint
from trocar.data.catalog import FOLDER as CATALOG
from trocar.data.catalog import read_header
from trocar.data.catalog_write import Rejected, write_catalog
from trocar.data.ingest import record
from trocar.data.ingest.framefolder import list_frames, unmatched
from trocar.data.ingest.lock import only_one
from trocar.data.ingest.metadata import (
    Table,
    frame_spec,
    matches,
    metadata_of,
    read_exclude,
    read_masks,
    read_table,
    table_beside,
)
from trocar.data.ingest.pool import run_jobs
from trocar.data.ingest.pseudonym import Pseudonyms
from trocar.data.ingest.record import Record
from trocar.data.ingest.settings import IngestSettings
from trocar.data.ingest.sources import Found, find, part_warning, prefixed, printable
from trocar.data.ingest.video import Job, Outcome
from trocar.errors import ConfigError, TrocarError
from trocar.privacy import Withheld


class IngestOptions(Config):
    """What `trocar ingest` is asked to do; see its command line help for each."""

    sources: tuple[Path, ...]
    out: Path
    settings: IngestSettings = IngestSettings()
    metadata: Path | None = None
    source: str | None = None
    prefix: str = ""
    case_regex: str | None = None
    frames: str | None = None
    frames_fps: float | None = Field(None, gt=0)
    first_number: int | None = None
    masks: Path | None = None
    exclude: Path | None = None
    pseudonymize: Path | None = None
    workers: int = Field(1, ge=1)


@dataclass
class Summary:
    """Counts of this run and of the catalog after it; `rejected` are the files of this run's sources."""

    fingerprint: str = ""
    videos: int = 0
    frames: int = 0
    ingested: int = 0
    finished_before: int = 0
    elsewhere: int = 0
    seconds: float = 0.0
    rejected: list[Rejected] = field(default_factory=list)


Say = Callable[[str], None]
Progress = Callable[[int, int, Outcome | None], None]


def run_ingest(options: IngestOptions, say: Say, progress: Progress) -> Summary:
    """Do it; `say` gets lines for the user, `progress(done, total, outcome)` is called after each video.

    Running it again does only what is not finished. Raises ConfigError for bad arguments before anything is written,
    TrocarError for a full disk or a second ingest of the same folder.
    """
    jobs = plan(options, say)
    root = options.out
    summary = Summary()
    with disk_trouble(root):
        refuse_foreign(root)
        make_folders(root)
        with only_one(root):
            claim_pseudonyms(options)
            suspects = _begun(root)
            sweep(root, options.sources, {job.name for job in jobs})
            before = {job.name: record.load(root, job.name) for job in jobs}
            for job in jobs:
                refuse_namesake(job, before[job.name])
            todo = [job for job in jobs if not is_finished(job, before[job.name], summary)]
            withdraw_catalog(root, todo)
            threads = max(1, options.workers // max(1, len(todo)))
            progress(0, len(todo), None)
            outcomes = run_jobs([replace(job, threads=threads) for job in todo], options.workers, suspects)
            for done, outcome in enumerate(outcomes, start=1):
                count(summary, outcome)
                progress(done, len(todo), outcome)
            finish(root, jobs, summary)
    return summary


def plan(options: IngestOptions, say: Say) -> list[Job]:
    """One job per video, by name. Raises ConfigError for anything in the arguments that is wrong."""
    found = find(options.sources, options.source)
    if options.prefix:
        found = prefixed(found, options.prefix)
    aliases = _aliases(options)
    if aliases is not None:
        say = _without_names(say, found)
    table = _table(options, found, say)
    cases_known = options.case_regex is not None or any(row.get("case_id") for row in table.rows.values())
    if not cases_known and (warning := part_warning([item.name for item in found])):
        say(f"warning: {warning}")
    names = [item.name for item in found]
    if options.case_regex is not None:
        _check_regex(options.case_regex, names, say)
    metadata = [metadata_of(item, table, options.case_regex, options.source) for item in found]
    known = names + [aliases.video(name) for name in names] if aliases is not None else names
    excluded = read_exclude(options.exclude, known) if options.exclude else {}
    masks = read_masks(options.masks, sorted({meta.source for meta in metadata})) if options.masks else {}
    jobs = []
    for item, meta in zip(found, metadata, strict=True):
        job = Job(
            name=item.name,
            path=item.path,
            shown=item.shown,
            root=options.out,
            key="",
            settings=options.settings,
            metadata=meta,
            frames=frame_spec(item, table, options.model_dump()) if item.is_folder else None,
            masks=masks.get(meta.source, ()),
            excluded=excluded.get(item.name, ()),
        )
        _warn_of_strangers(job, say)
        if aliases is not None:
            _refuse_folder_name(item, table, options)
            also = excluded.get(aliases.video(item.name), ())
            job = _disguised(replace(job, excluded=job.excluded + also), aliases)
        jobs.append(replace(job, key=_key(job, say, aliases)))
    if aliases is not None:
        cases = zip(found, metadata, jobs, strict=True)
        rows = [(item.shown, job.name, meta.case_id, job.metadata.case_id) for item, meta, job in cases]
        say(f"names and their pseudonyms: {aliases.note(rows)}")
    return sorted(jobs, key=lambda job: job.name)


def _aliases(options: IngestOptions) -> Pseudonyms | None:
    return None if options.pseudonymize is None else Pseudonyms.load(options.pseudonymize, options.out)


def claim_pseudonyms(options: IngestOptions) -> None:
    """Mark a folder as one of this key's pseudonyms. Raises ConfigError for one of another key."""
    if (aliases := _aliases(options)) is not None:
        aliases.check(options.out)


def _without_names(say: Say, found: Sequence[Found]) -> Say:
    names = {name for item in found for name in (item.name, item.path.name, item.path.stem, item.shown)}
    hidden = Withheld(names)
    return lambda line: say(hidden.text(line))


def _disguised(job: Job, aliases: Pseudonyms) -> Job:
    """The same work, without the name of its file or its case."""
    name = aliases.video(job.name)
    metadata = replace(job.metadata, case_id=aliases.case(job.metadata.case_id))
    return replace(job, name=name, shown=name, metadata=metadata, pseudonymous=True)


def _refuse_folder_name(item: Found, table: Table, options: IngestOptions) -> None:
    """Raises ConfigError where a folder's name would become the source: it may be a hospital's or a patient's."""
    if options.source is None and not table.rows.get(item.name, {}).get("source"):
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


def _check_regex(regex: str, names: Sequence[str], say: Say) -> None:
    unmatched = [name for name in names if not matches(name, regex)]
    if len(unmatched) == len(names):
        raise ConfigError(f"--case-regex {regex!r} matches no video as a whole, such as {names[0]!r}")
    if unmatched:
        say(f"warning: --case-regex does not match {len(unmatched)} videos, each its own case: {_some(unmatched)}")


def _some(names: Sequence[str]) -> str:
    """The first five, and whether there are more."""
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _table(options: IngestOptions, found: Sequence[Found], say: Say) -> Table:
    path = options.metadata or table_beside(options.sources)
    if path is None:
        say(f"no videos.csv: hospital and procedure stay empty; source is {found[0].default_source!r}")
        return Table()
    table = read_table(path)
    if options.prefix:
        table = Table(path, {options.prefix + name: row for name, row in table.rows.items()}, table.unknown)
    names = {item.name for item in found}
    if options.metadata is not None and not names & set(table.rows):
        raise ConfigError(
            f"{path} describes none of the videos: it names {', '.join(sorted(table.rows)[:3]) or 'none'}, found were "
            f"{', '.join(sorted(names)[:3])}"
        )
    if options.metadata is None:
        say(f"metadata from {path}")
    for what, missing in (
        ("rows of videos.csv have no video", sorted(set(table.rows) - names)),
        ("videos have no row in videos.csv", sorted(names - set(table.rows))),
        ("columns of videos.csv are not used", list(table.unknown)),
    ):
        if missing:
            say(f"warning: {len(missing)} {what}: {_some(missing)}")
    return table


def _key(job: Job, say: Say, aliases: Pseudonyms | None) -> str:
    """What the frames of a video follow from: size and time stamp of its file or files, and the settings.

    It stands in the record, so a pseudonymous one is made of pseudonyms: names could be tried out against its hash.
    """
    alias = printable if aliases is None else aliases.file
    if job.frames is None:
        files = [_stamp(job.path, alias)]
    else:
        listed = list_frames(job.path, job.frames)
        times = f"{listed[0].time_s:.2f} s to {listed[-1].time_s:.2f} s"
        first, last = (printable(listed[i].path.name) for i in (0, -1))
        say(f"{job.name}: {len(listed)} files, " + ("" if aliases else f"{first} to {last} are ") + times)
        files = [_stamp(frame.path, alias) for frame in listed]
    spec = vars(job.frames) if job.frames else None
    tree = {"files": files, "settings": job.settings.identity(), "frames": spec}
    return fingerprint(tree | {"masks": job.masks, "excluded": repr(job.excluded)})


def _stamp(path: Path, alias: Callable[[str], str]) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return alias(path.name), -1, -1
    return alias(path.name), status.st_size, status.st_mtime_ns


def make_folders(root: Path) -> None:
    """The folders of a shards folder."""
    for folder in ("shards", record.FOLDER, CATALOG):
        (root / folder).mkdir(parents=True, exist_ok=True)


def withdraw_catalog(root: Path, todo: Sequence[Job]) -> None:
    """Take the present catalog away if it points into shards that are about to be replaced."""
    if any(record.is_there(root, job.name) for job in todo):
        (root / CATALOG / "catalog.json").unlink(missing_ok=True)


def is_finished(job: Job, done: Record | None, summary: Summary | None = None) -> bool:
    """Whether a video's record and shards are what this job would make; other metadata are noted in the record.

    `summary` counts it; without one nothing is written either.
    """
    if done is None or done.key != job.key or not all(_is_there(job.root / s.path, s.bytes) for s in done.shards):
        return False
    if summary is None:
        return True
    if done.metadata != job.metadata:
        record.save(job.root, replace(done, metadata=job.metadata))
    summary.finished_before += 1
    summary.rejected.extend(done.rejected)
    return True


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def refuse_foreign(root: Path) -> None:
    """Raises ConfigError for a catalog without records of its videos: it would be overwritten by one without them."""
    # Where there are records, the catalog is rebuilt from them, damaged or not.
    known = bool(record.names(root)) or not (root / CATALOG / "catalog.json").is_file()
    if not known and read_header(root)["videos"]:
        raise ConfigError(f"{root} holds a catalog that no ingest left here; give another folder to --out")


def refuse_namesake(job: Job, done: Record | None) -> None:
    """Raises ConfigError for a video whose name belongs to another source's video here: it would replace that one."""
    if done is not None and done.key != job.key and done.metadata.source != job.metadata.source:
        raise ConfigError(
            f"{job.shown}: there is another video named {job.name!r} in {job.root}, of source "
            f"{done.metadata.source!r} (this one is of {job.metadata.source!r}); it would be lost: give --prefix "
            f"or another --out, or --source {done.metadata.source} if it is the same video and shall be replaced"
        )


def _begun(root: Path) -> frozenset[str]:
    """Videos that were being decoded when an earlier ingest came to its end without being asked."""
    folder = root / "tmp"
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def sweep(root: Path, sources: Sequence[Path], names: Collection[str]) -> None:
    """Remove what an interrupted ingest left: nothing in these places has its final name.

    Rejections of these sources go too, where the file has gone; of other sources nothing can be said.
    """
    _sweep_temporary(root)
    below = tuple(printable(source).rstrip("/") + "/" for source in sources)
    for path in (root / record.FOLDER).glob("*.rejected.json"):
        if path.name.removesuffix(".rejected.json") not in names and record.load_rejected(path).path.startswith(below):
            path.unlink()


def _sweep_temporary(root: Path) -> None:
    shutil.rmtree(root / "tmp", ignore_errors=True)
    for folder in (root / record.FOLDER, root / CATALOG):
        for stale in folder.glob(".*.tmp"):
            stale.unlink()


def count(summary: Summary, outcome: Outcome) -> None:
    """Add what became of one video."""
    summary.ingested += outcome.finished
    summary.seconds += outcome.duration_s
    summary.rejected.extend(outcome.rejected)


def finish(root: Path, jobs: Sequence[Job], summary: Summary) -> None:
    """Write the catalog of all finished videos, and count them."""
    _sweep_temporary(root)  # a worker that was killed leaves such files too, and its ingest goes on
    videos = list(record.entries(root))
    summary.fingerprint = write_catalog(root, videos, record.rejections(root))
    summary.videos, summary.frames = len(videos), sum(video.frames.num_rows for video in videos)
    summary.elsewhere = len({video.name for video in videos} - {job.name for job in jobs})


@contextmanager
def disk_trouble(root: Path) -> Iterator[None]:
    """Turn an OSError into a TrocarError that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space left" if full else (error.strerror or str(error))
        todo = "free some space and run the same command" if full else "run the same command when that is solved"
        free = f" ({shutil.disk_usage(root).free >> 20} MiB free)" if full and root.is_dir() else ""
        place = os.fspath(error.filename) if error.filename and not full else str(root)
        raise TrocarError(f"{place}: {what}{free}; finished videos are kept: {todo}, it continues") from None
