"""One tar of others: each picture judged, left where it is if it is fit, else written anew. Runs in a worker."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from trocar.core.config import fingerprint
from trocar.core.files import replacing, sha256_of
from trocar.data.catalog.catalog import FRAME_SCHEMA, QUALITY_SCHEMA
from trocar.data.catalog.writer import ContentHash, Rejected, ShardFile
from trocar.data.ingest import record
from trocar.data.ingest.framing import Framing, IngestSettings
from trocar.data.ingest.pack import DIED
from trocar.data.ingest.quality import measure, quality_table
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.data.ingest.tars.tar_samples import (
    MOST_JSON,
    Said,
    TarFields,
    TarSample,
    read_json,
    said_of,
    samples,
    unfit,
)
from trocar.data.ingest.video import JobOutcome, publish_files
from trocar.data.media.delivered_files import RejectError, check_size
from trocar.data.media.still import end_and_size, open_jpeg, open_still

FOLDER = "tars"
SCAN_VERSION = 1
"""Raised when the same tar gives other rows: tars of another version are read again."""
ROW_SCHEMA = pa.schema(
    [
        *FRAME_SCHEMA,
        *QUALITY_SCHEMA,
        ("name", pa.string()),
        ("said", pa.string()),
        ("content_hash", pa.string()),
    ]
)
"""A frame of a tar: `name` is its still's, `said` the JSON of `Said`; `shard` counts from 0, the tar itself."""


@dataclass(frozen=True)
class TarRecord:
    """What became of a tar: `in_place` frames are read where they lie, `transcoded` and `left_out` are counts by
    reason, `shards` the tar itself, then those of what was written anew.
    """

    key: str
    shards: tuple[ShardFile, ...]
    in_place: int
    transcoded: Mapping[str, int]
    left_out: Mapping[str, int]
    rejected: tuple[Rejected, ...]


def load(root: Path, name: str) -> TarRecord | None:
    """The record of a tar, None where it is not finished."""
    try:
        tree: dict[str, Any] = json.loads((root / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        shards = tuple(ShardFile(**shard) for shard in tree.pop("shards"))
        return TarRecord(shards=shards, rejected=tuple(Rejected(**item) for item in tree.pop("rejected")), **tree)
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # damaged or of another version: the tar is read again


def rows(root: Path, name: str) -> pa.Table:
    """The rows of a finished tar, ROW_SCHEMA."""
    return pa.ipc.open_file(pa.OSFile(str(root / FOLDER / f"{name}.arrow"))).read_all()


def names(root: Path) -> list[str]:
    """Names of all finished tars, sorted."""
    return sorted(path.stem for path in (root / FOLDER).glob("[!.]*.json"))


@dataclass(frozen=True)
class TarJob:
    """All a worker needs for one tar.

    `source` is that of frames that name none, "" for the tar's name. With `numbers_per_s` times are frame numbers,
    `first_number` at time 0. `crashed` are the samples at which its process died before.
    """

    name: str
    path: Path
    shown: str
    root: Path
    key: str
    settings: IngestSettings
    fields: TarFields
    source: str = ""
    numbers_per_s: float | None = None
    first_number: int = 0
    transcode: bool = True
    crashed: frozenset[int] = frozenset()

    def identity(self, stamp: Sequence[str | int]) -> str:
        """What the rows follow from: the file, by its path, size and time stamp, and how it is read."""
        read = (self.source, self.numbers_per_s, self.first_number, self.transcode, self.settings.max_pixels)
        how = {"version": SCAN_VERSION, "settings": self.settings.identity(), "fields": self.fields.model_dump()}
        return fingerprint({**how, "read": read, "tar": list(stamp)})

    @property
    def bytes(self) -> int:
        """Size of the tar."""
        return self.path.stat().st_size

    def after_crash(self) -> TarJob | None:
        """The same without the sample at which its process died; None where that cannot be told."""
        try:
            at = int(_marker(self).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return None if at in self.crashed else replace(self, crashed=self.crashed | {at})

    def run(self) -> JobOutcome:
        """Do it. The link and the shards get their names when they are complete, then the record is written."""
        (self.root / FOLDER / f"{self.name}.json").unlink(missing_ok=True)
        for stale in (self.root / "shards").glob(f"{self.name}-[0-9][0-9][0-9][0-9].*"):
            stale.unlink()
        folder = self.root / "tmp" / self.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            return _Scan(self, folder).run()
        except RejectError as error:
            rejected = Rejected(self.shown, error.reason, error.detail)
            record.save_rejected(self.root, self.name, rejected)
            return JobOutcome(self.name, rejected=(rejected,), finished=False)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _marker(self).unlink(missing_ok=True)


@dataclass
class _Scan:
    job: TarJob
    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    quality: list[pa.Table] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    transcoded: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def run(self) -> JobOutcome:
        job = self.job
        # Named before the tar is read: what is written meanwhile makes another checksum.
        tar = ShardFile(f"shards/{job.name}.tar", job.bytes, sha256_of(job.path))
        writer = ShardWriter(self.folder, job.name, job.settings.shard_bytes)
        with job.path.open("rb") as file, writer:
            for number, sample in self._each(samples(job.path)):
                try:
                    self._add(number, sample, file, writer)
                except RejectError as error:
                    self.rejected.append(Rejected(f"{job.shown}/{sample.key}", error.reason, error.detail))
        own = writer.frames().to_pylist()
        for row in self.rows:
            if row["shard"] > 0:
                written = own[row["shard"] - 1]
                row |= {key: written[key] for key in FRAME_SCHEMA.names if key not in ("video", "time_s", "shard")}
                row["shard"] = 1 + written["shard"]
        (self.folder / f"{job.name}.tar").symlink_to(job.path.resolve())
        shards = (tar, *publish_files(writer, job.root))
        in_place = sum(row["shard"] == 0 for row in self.rows)
        self._save(
            TarRecord(job.key, shards, in_place, dict(self.transcoded), dict(self.left_out), tuple(self.rejected))
        )
        return JobOutcome(job.name, len(self.rows), rejected=tuple(self.rejected), stills=len(self.rows))

    def _save(self, done: TarRecord) -> None:
        folder = self.job.root / FOLDER
        frames = pa.Table.from_pylist(self.rows, schema=_without_quality())
        quality = pa.concat_tables(self.quality) if self.quality else quality_table([])
        table = pa.table([*frames.columns, *quality.columns], names=[*frames.column_names, *quality.column_names])
        table = table.select(ROW_SCHEMA.names).cast(ROW_SCHEMA)
        with (
            replacing(folder / f"{self.job.name}.arrow") as path,
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        with replacing(folder / f"{self.job.name}.json") as path:
            path.write_text(json.dumps(asdict(done), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (self.job.root / record.FOLDER / f"{self.job.name}.rejected.json").unlink(missing_ok=True)

    def _each(self, found: Sequence[TarSample]) -> Iterator[tuple[int, TarSample]]:
        """The samples in turn, and on the disk the number of the one at hand: a decoder may take the process down."""
        with _marker(self.job).open("wb", buffering=0) as marker:
            for number, sample in enumerate(found):
                os.pwrite(marker.fileno(), f"{number:09d}".encode(), 0)
                yield number, sample

    def _add(self, number: int, sample: TarSample, file: BinaryIO, writer: ShardWriter) -> None:
        job = self.job
        if number in job.crashed:
            raise RejectError(*DIED)
        kinds = sample.pictures(job.fields.image)
        if not kinds:
            self.left_out["key without a picture"] += 1
            return
        if len(kinds) > 1:
            raise RejectError("several pictures", f"{', '.join(sorted(kinds))}: --wds-image says which")
        said = self._said(sample, file)
        place = sample.members[kinds[0]]
        data = read_at(file.fileno(), place.offset, place.size)
        reason = unfit(data)
        if reason is not None and not job.transcode:
            self.left_out[reason] += 1
            return
        try:
            row = self._in_place(data, place.offset) if reason is None else self._transcoded(data, said, writer)
        except (RejectError, OSError):
            raise
        except MemoryError as error:
            raise RejectError("out of memory", "the picture does not fit into memory; try fewer --workers") from error
        except Exception as error:
            raise RejectError("unexpected error", type(error).__name__, str(error)) from error
        if reason is not None:
            self.transcoded[reason] += 1
        self.rows.append(row | {"video": 0, "time_s": said.time, "name": sample.key, "said": json.dumps(asdict(said))})

    def _said(self, sample: TarSample, file: BinaryIO) -> Said:
        place = sample.members.get("json")
        text = (
            read_at(file.fileno(), place.offset, place.size) if place is not None and place.size <= MOST_JSON else b""
        )
        said = said_of(sample.key, read_json(text), self.job.fields)
        time = said.time
        if self.job.numbers_per_s is not None:
            time = (time - self.job.first_number) / self.job.numbers_per_s
        return replace(said, time=time, source=said.source or self.job.source)

    def _in_place(self, data: bytes, offset: int) -> dict[str, Any]:
        try:
            end, (width, height) = end_and_size(data)
        except ValueError as error:
            raise RejectError("undecodable image", f"is not a whole JPEG: it {error}") from None
        check_size(width, height, self.job.settings.max_pixels)
        data = data[:end]
        self._judge(data)
        place = {"shard": 0, "offset": offset, "size": end, "crc32": zlib.crc32(data)}
        return place | {"width": width, "height": height, "content_hash": _hash(data)}

    def _transcoded(self, data: bytes, said: Said, writer: ShardWriter) -> dict[str, Any]:
        image = open_still(data, self.job.settings.max_pixels)
        jpeg = Framing(self.job.settings, ()).packed(data, image)
        self._judge(jpeg)
        number = sum(self.transcoded.values())
        writer.add(said.time, jpeg, *image.size, video=f"{self.job.name}-{number:06d}")
        return {"shard": 1 + number, "content_hash": _hash(jpeg)}

    def _judge(self, jpeg: bytes) -> None:
        self.quality.append(quality_table([measure(open_jpeg(jpeg))]))


def _without_quality() -> pa.Schema:
    return pa.schema([entry for entry in ROW_SCHEMA if entry.name not in QUALITY_SCHEMA.names])


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Fewer than `size` bytes only at the end of the file: a network file system may give a part at a time."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data


def _hash(jpeg: bytes) -> str:
    content = ContentHash()
    content.add(0.0, jpeg)
    return content.hexdigest()


def _marker(job: TarJob) -> Path:
    return job.root / "tmp" / f".{job.name}.at"
