"""The shards folder of an ingest: what may be written there, what is done already, and what is left at the end.

One ingest per shards folder at a time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trocar.data.catalog.catalog import FOLDER as CATALOG
from trocar.data.catalog.catalog import read_header
from trocar.data.catalog.writer import Rejected, VideoEntry, write_catalog
from trocar.data.ingest import record
from trocar.data.ingest.burned_text import advice
from trocar.data.ingest.jobs import pseudonyms_of
from trocar.data.ingest.options import IngestOptions, IngestSummary
from trocar.data.ingest.pack import Pack, Work, is_pack
from trocar.data.ingest.record import VideoRecord
from trocar.data.ingest.sources.choice import alike_stills
from trocar.data.ingest.sources.find import printable
from trocar.data.ingest.video import JobOutcome
from trocar.errors import ConfigError, TrocarError

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def only_one(root: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold ROOT/ingest.lock. The kernel lets go of it when the process dies, however that happens.

    `shared`: parts of one ingest hold it together, and keep a whole one out.

    Raises TrocarError, naming pid and host, while another process holds it.
    """
    descriptor = os.open(root / "ingest.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise TrocarError(f"{root}: {_holder(descriptor)} is writing here; wait or stop it") from None
            if error.errno not in _UNSUPPORTED:
                raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        tree = json.loads(os.pread(descriptor, 4096, 0))
        return f"another ingest (process {tree['pid']} on {tree['host']})"
    except (ValueError, KeyError, TypeError):
        return "another ingest"


def claim_pseudonyms(options: IngestOptions) -> None:
    """Mark a folder as one of this key's pseudonyms. Raises ConfigError for one of another key."""
    if (pseudonyms := pseudonyms_of(options)) is not None:
        pseudonyms.check(options.out)


def make_folders(root: Path) -> None:
    """The folders of a shards folder."""
    for folder in ("shards", record.FOLDER, CATALOG):
        (root / folder).mkdir(parents=True, exist_ok=True)


def withdraw_catalog(root: Path, todo: Sequence[Work]) -> None:
    """Take the present catalog away if it points into shards that are about to be replaced."""
    if any(record.is_there(root, job.name) for job in todo):
        (root / CATALOG / "catalog.json").unlink(missing_ok=True)


def forget_packs(root: Path, jobs: Sequence[Work]) -> None:
    """Remove finished packs whose stills are in other packs now: pictures came, went or were renamed.

    Raises ConfigError where a name of these jobs is that of another source's still here, or a still's that of a video:
    one of them would be lost.
    """
    wanted = {name: job for job in jobs for name in job.videos}
    for name, job in wanted.items():
        if isinstance(job, Pack) and (done := record.load(root, name)) is not None:
            raise ConfigError(_namesake(job, name, done.metadata.source))
    superseded = []
    for pack in set(filter(is_pack, record.names(root))) - {job.name for job in jobs}:
        done = record.load(root, pack)
        shared = [name for name in (done.videos if done else ()) if name in wanted]
        if done is None or not shared:
            continue
        if done.metadata.source not in _sources(wanted[shared[0]]):
            raise ConfigError(_namesake(wanted[shared[0]], shared[0], done.metadata.source))
        superseded.append(pack)
    if superseded:
        (root / CATALOG / "catalog.json").unlink(missing_ok=True)
    for pack in superseded:
        record.forget(root, pack)


def is_finished(job: Work, done: VideoRecord | None, summary: IngestSummary | None = None) -> bool:
    """Whether a video's record and shards are what this job would make; other metadata are noted in the record.

    `summary` counts it; without one nothing is written either.
    """
    if done is None or done.key != job.key or not all(_is_there(job.root / s.path, s.bytes) for s in done.shards):
        return False
    if summary is None:
        return True
    if (described := job.described(done)) != done:
        record.save(job.root, described)
    summary.finished_before += 1
    summary.rejected.extend(done.rejected)
    summary.remark(done.damaged, done.notes)
    return True


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def refuse_foreign(root: Path) -> None:
    """Raises ConfigError for a catalog without records of its videos: it would be overwritten by one without them."""
    # Where there are records, the catalog is rebuilt from them, damaged or not.
    known = bool(record.names(root)) or not (root / CATALOG / "catalog.json").is_file()
    if not known and read_header(root)["videos"]:
        raise ConfigError(f"{root} holds a catalog that no ingest left here; give another folder to --out")


def refuse_namesake(job: Work, done: VideoRecord | None) -> None:
    """Raises ConfigError for a video whose name belongs to another source's video here: it would replace that one."""
    if done is not None and done.key != job.key and done.metadata.source not in _sources(job):
        raise ConfigError(_namesake(job, job.name, done.metadata.source))


def _sources(job: Work) -> set[str]:
    return {still.metadata.source for still in job.stills} if isinstance(job, Pack) else {job.metadata.source}


def _namesake(job: Work, name: str, source: str) -> str:
    return (
        f"{job.shown}: there is another video or still named {name!r} in {job.root}, of source {source!r} (this one is "
        f"of {', '.join(map(repr, sorted(_sources(job))))}); it would be lost: give --prefix or another --out, or "
        f"--source {source} if it is the same video and shall be replaced"
    )


def begun(root: Path) -> frozenset[str]:
    """Videos that were being decoded when an earlier ingest came to its end without being asked."""
    folder = root / "tmp"
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def sweep(root: Path, sources: Sequence[Path], names: Collection[str]) -> None:
    """Remove what an interrupted ingest left: nothing in these places has its final name.

    Rejections of these sources go too, where the file has gone; of other sources nothing can be said.
    """
    sweep_temporary(root)
    below = tuple(printable(source).rstrip("/") + "/" for source in sources)
    for path in (root / record.FOLDER).glob("*.rejected.json"):
        if path.name.removesuffix(".rejected.json") not in names and record.load_rejected(path).path.startswith(below):
            path.unlink()


def sweep_temporary(root: Path) -> None:
    """Remove what has no final name yet."""
    shutil.rmtree(root / "tmp", ignore_errors=True)
    for folder in (root / record.FOLDER, root / CATALOG):
        for stale in folder.glob(".*.tmp"):
            stale.unlink()


def count(summary: IngestSummary, outcome: JobOutcome) -> None:
    """Add what became of one video."""
    summary.ingested += outcome.finished and not outcome.stills
    summary.ingested_stills += outcome.stills
    summary.seconds += outcome.duration_s
    summary.rejected.extend(outcome.rejected)
    summary.remark(outcome.damaged, outcome.notes)


def finish(root: Path, jobs: Sequence[Work], summary: IngestSummary) -> None:
    """Write the catalog of all finished videos, and count them."""
    sweep_temporary(root)  # a worker that was killed leaves such files too, and its ingest goes on
    videos = list(record.entries(root))
    write_entries(root, videos, record.rejections(root), summary)
    here = {name for job in jobs for name in job.videos}
    summary.elsewhere = len({video.name for video in videos} - here)
    summary.text = advice([(v.name, v.source, v.text) for v in videos if v.name in here and v.fps])


def write_entries(
    root: Path, videos: Sequence[VideoEntry], rejected: Iterable[Rejected], summary: IngestSummary
) -> None:
    """Write the catalog of these videos, and count what is in it."""
    summary.fingerprint = write_catalog(root, videos, rejected)
    summary.videos, summary.frames = len(videos), sum(video.frames.num_rows for video in videos)
    summary.stills = sum(video.fps == 0 for video in videos)
    summary.cases = len({(video.source, video.case_id) for video in videos})
    summary.alike = alike_stills(videos)


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
