"""`trocar ingest --in-place`: a catalog of tars that others wrote, whose fit pictures are read where they lie.

OUT/shards/NAME.tar        a link to the tar, and NAME-0000.tar ... with the pictures that were not fit, written anew
OUT/tars/NAME.json .arrow  a record per finished tar: it is not read again
OUT/catalog                as of any ingest
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trocar.core.messages import Say
from trocar.data.catalog.catalog import FOLDER as CATALOG
from trocar.data.catalog.catalog import FRAME_SCHEMA, QUALITY_SCHEMA
from trocar.data.catalog.writer import ContentHash, Rejected, ShardFile, VideoEntry
from trocar.data.ingest import record
from trocar.data.ingest.jobs import run_jobs
from trocar.data.ingest.options import IngestOptions, IngestSummary, Progress
from trocar.data.ingest.output_folder import begun, disk_trouble, make_folders, only_one, sweep_temporary, write_entries
from trocar.data.ingest.quality import judged_again
from trocar.data.ingest.sources.find import MAX_NAME, fit_name, printable
from trocar.data.ingest.tars import scan_job
from trocar.data.ingest.tars.scan_job import TarJob, TarRecord
from trocar.data.ingest.tars.tar_samples import expand
from trocar.errors import ConfigError, TrocarError

_MARK = 8
_LONGEST = MAX_NAME - 16
"""Of a tar's name, which begins the keys of what is written anew."""
_NOT_IN_PLACE = {
    "stills": "without --wds-video every picture is a still",
    "frames": "give --wds-time, the field of the time",
    "masks": "nothing can be blacked out where it lies",
    "exclude": "leave cases out by the composition",
    "pseudonymize": "the names stay in the tars",
    "case_regex": "give --wds-key with a group (?P<case>...), or --wds-case",
    "metadata": "give the fields of the tars' JSON, such as --wds-hospital",
}


@dataclass(frozen=True)
class _Frame:
    """A row of a finished tar."""

    tar: str
    row: int
    name: str
    said: Mapping[str, Any]

    @property
    def time(self) -> np.float32:
        """Seconds, as they are stored."""
        return np.float32(self.said["time"])


def run_in_place(options: IngestOptions, say: Say, progress: Progress) -> IngestSummary:
    """Do it; `say` and `progress` as of `run_ingest`.

    Raises ConfigError for bad arguments before anything is written, TrocarError for a full disk, a
    video of which two things are said, or a second ingest of the same folder.
    """
    jobs = _plan(options)
    root, summary = options.out, IngestSummary()
    with disk_trouble(root):
        _refuse_other(root)
        make_folders(root)
        (root / scan_job.FOLDER).mkdir(exist_ok=True)
        with only_one(root):
            suspects = begun(root)
            sweep_temporary(root)
            todo = [job for job in jobs if not _is_finished(job)]
            summary.finished_before = len(jobs) - len(todo)
            if any((root / scan_job.FOLDER / f"{job.name}.json").is_file() for job in todo):
                (root / CATALOG / "catalog.json").unlink(missing_ok=True)
            progress(0, len(todo), None)
            for done, outcome in enumerate(run_jobs(todo, options.workers, suspects), start=1):
                summary.ingested_stills += outcome.stills
                summary.rejected.extend(() if outcome.finished else outcome.rejected)
                progress(done, len(todo), outcome)
            _finish(root, jobs, summary, say)
    return summary


def _plan(options: IngestOptions) -> list[TarJob]:
    for name, why in _NOT_IN_PLACE.items():
        if getattr(options, name):
            raise ConfigError(
                f"--in-place leaves pictures where they are: --{name.replace('_', '-')} is not for it; {why}"
            )
    stored = {"short_side": None, "crop": "none"}
    for name in sorted({"fps", *stored} & options.settings.model_fields_set):
        if name not in stored or getattr(options.settings, name) != stored[name]:
            flag = name.replace("_", "-")
            raise ConfigError(f"--in-place leaves pictures as they are, so --{flag} is not for it: ingest without it")
    fields = options.wds
    if fields.of("video") != fields.of("time"):
        missing = "time" if fields.of("video") else "video"
        raise ConfigError(f"frames of videos need both --wds-video and --wds-time: give --wds-{missing}")
    if options.frames_fps is not None and not fields.of("time"):
        raise ConfigError("--frames-fps turns the numbers of --wds-time into seconds: give --wds-time")
    settings = options.settings.model_copy(update=stored)
    paths = expand(options.sources, options.out)
    count = Counter(fit_name(options.prefix + path.stem)[:_LONGEST] for path in paths)
    jobs = []
    for path in paths:
        name = fit_name(options.prefix + path.stem)[:_LONGEST]
        if count[name] > 1:
            name += f"-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:_MARK]}"
        status = path.stat()
        stamp: list[str | int] = [printable(path.resolve()), status.st_size, status.st_mtime_ns]
        job = TarJob(
            name=name,
            path=path,
            shown=printable(path),
            root=options.out,
            key="",
            settings=settings,
            fields=fields,
            source=options.source or "",
            numbers_per_s=options.frames_fps,
            first_number=options.first_number or 0,
            transcode=options.unfit == "transcode",
        )
        jobs.append(replace(job, key=job.identity(stamp)))
    return jobs


def _is_finished(job: TarJob) -> bool:
    done = scan_job.load(job.root, job.name)
    there = done is not None and all((job.root / shard.path).is_file() for shard in done.shards)
    if done is not None and done.key != job.key and _link(job.root, job.name) not in (None, job.path.resolve()):
        raise ConfigError(
            f"{job.shown}: there is another tar named {job.name!r} in {job.root}; it would be lost: give --prefix or "
            "another --out"
        )
    return done is not None and there and done.key == job.key


def _link(root: Path, name: str) -> Path | None:
    path = root / "shards" / f"{name}.tar"
    return path.readlink() if path.is_symlink() else None


def _refuse_other(root: Path) -> None:
    if record.names(root):
        raise ConfigError(f"{root} holds copied frames of another ingest; give another folder to --out")
    if (root / CATALOG / "catalog.json").is_file() and not scan_job.names(root):
        raise ConfigError(f"{root} holds a catalog that no ingest left here; give another folder to --out")


def _finish(root: Path, jobs: Sequence[TarJob], summary: IngestSummary, say: Say) -> None:
    """Write the catalog of all finished tars, and count what these jobs had."""
    found = _Finished(root)
    entries = list(found.entries())
    here = {job.name for job in jobs}
    for name, done in found.records.items():
        if name in here:
            summary.in_place += done.in_place
            summary.transcoded.update(done.transcoded)
            summary.left_out.update(done.left_out)
            summary.rejected.extend(done.rejected)
    summary.rejected.extend(found.doubled)
    rejected = [item for done in found.records.values() for item in done.rejected]
    write_entries(root, entries, [*rejected, *found.doubled, *record.rejections(root)], summary)
    if own := sum(summary.transcoded.values()):
        say(f"{own} pictures cannot be read where they lie and were written anew (--unfit leave-out leaves them out)")


class _Finished:
    """All finished tars of a folder; `doubled` are the frames that share the time of another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: dict[str, TarRecord] = {}
        for name in scan_job.names(root):
            done = scan_job.load(root, name)
            if done is None:
                path = root / scan_job.FOLDER / f"{name}.json"
                raise TrocarError(f"{path}: not a record of this version; ingest its tar again")
            self.records[name] = done
        self.rows = {name: scan_job.rows(root, name) for name in self.records}
        self.doubled: list[Rejected] = []
        self._taken: set[str] = set()

    def entries(self) -> Iterator[VideoEntry]:
        """Every still, then every video."""
        videos: dict[str, list[_Frame]] = defaultdict(list)
        for tar, rows in self.rows.items():
            columns = (rows[name].to_pylist() for name in ("name", "said", "content_hash"))
            for row, (name, said, content) in enumerate(zip(*columns, strict=True)):
                frame = _Frame(tar, row, name, json.loads(said))
                if frame.said["video"]:
                    videos[frame.said["video"]].append(frame)
                else:
                    shards = self.records[tar].shards
                    yield _entry(self._unique(f"{tar}/{name}"), frame, shards, rows.slice(row, 1), content)
        for video, frames in sorted(videos.items()):
            yield self._video(video, frames)

    def _video(self, video: str, frames: Sequence[_Frame]) -> VideoEntry:
        for said in ("case", "source", "hospital", "procedure", "splits"):
            values = sorted({str(frame.said[said]) for frame in frames})
            if len(values) > 1:
                raise TrocarError(f"video {video!r}: its frames are of two of {said}, {values[0]!r} and {values[1]!r}")
        kept: list[_Frame] = []
        for frame in sorted(frames, key=lambda frame: (frame.time, frame.tar, frame.row)):
            if not kept or frame.time > kept[-1].time:
                kept.append(frame)
                continue
            detail = f"another frame of {video} has its time, {frame.time:g} s"
            self.doubled.append(Rejected(f"{frame.tar}/{frame.name}", "same time", detail))
        first: dict[str, int] = {}
        shards: list[ShardFile] = []
        for tar in sorted({frame.tar for frame in kept}):
            first[tar] = len(shards)
            shards += self.records[tar].shards
        rows = pa.concat_tables([self.rows[frame.tar].slice(frame.row, 1) for frame in kept])
        numbers = rows["shard"].to_numpy() + np.array([first[frame.tar] for frame in kept])
        times = pa.array([frame.time for frame in kept], pa.float32())
        rows = judged_again(_with(_with(rows, "shard", pa.array(numbers, pa.int32())), "time_s", times))
        step = float(np.median(np.diff([float(frame.time) for frame in kept]))) if len(kept) > 1 else 1.0
        duration = float(kept[-1].time - kept[0].time) + step
        content = self._content(shards, rows)
        return _entry(self._unique(video), kept[0], shards, rows, content, fps=1 / step, duration_s=duration)

    def _content(self, shards: Sequence[ShardFile], rows: pa.Table) -> str:
        """The hash of a video's frames in the order of time: tars may hold them in any order."""
        content = ContentHash()
        with ExitStack() as files:
            opened = [files.enter_context((self.root / shard.path).open("rb")).fileno() for shard in shards]
            for row in rows.select(["time_s", "shard", "offset", "size"]).to_pylist():
                content.add(row["time_s"], scan_job.read_at(opened[row["shard"]], row["offset"], row["size"]))
        return content.hexdigest()

    def _unique(self, text: str) -> str:
        """A fit name: a hash of the whole ends what is too long, and tells apart what would be called alike."""
        name = fit_name(text)
        if len(name) > MAX_NAME or name in self._taken:
            mark = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_MARK]
            name = f"{name[: MAX_NAME - _MARK - 1]}-{mark}"
        self._taken.add(name)
        return name


def _entry(
    name: str,
    frame: _Frame,
    shards: Sequence[ShardFile],
    rows: pa.Table,
    content: str,
    *,
    fps: float = 0.0,
    duration_s: float = 0.0,
) -> VideoEntry:
    """A still, or with `fps` a video whose first frame is `frame`."""
    said = frame.said
    sizes = set(zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True))
    return VideoEntry(
        name=name,
        case_id=said["case"] or said["video"] or name,
        part=1,
        source=said["source"] or frame.tar,
        hospital=said["hospital"],
        procedure=said["procedure"],
        splits=tuple(said["splits"]),
        fps=fps,
        duration_s=duration_s,
        content_hash=content,
        shards=shards,
        frames=rows.select(FRAME_SCHEMA.names),
        quality=rows.select(QUALITY_SCHEMA.names),
        source_size=sizes.pop() if len(sizes) == 1 else (),
    )


def _with(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)
