"""Isolated pictures into common shards: a pack holds some hundred of them, of as many cases. Runs in a worker."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from trocar.data.catalog.writer import ContentHash, Rejected
from trocar.data.ingest import record
from trocar.data.ingest.framing import Box, Framing, IngestSettings
from trocar.data.ingest.quality import measure, quality_table
from trocar.data.ingest.record import Metadata, PackMember, VideoRecord
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.data.ingest.video import Job, JobOutcome, publish_files
from trocar.data.media.delivered_files import RejectError, read_picture
from trocar.data.media.still import open_jpeg, open_still

DIED = ("decoder crashed", "its process died while decoding (or ran out of memory)")
"""Reason and detail of a rejection."""
_NAME = re.compile(r"stills-[0-9a-f]{12}")
PACK = 256
"""Stills in a pack: few files for many pictures, and little to do again after a kill."""


@dataclass(frozen=True)
class Still:
    """One picture; the words are those of `video.Job`."""

    name: str
    path: Path
    shown: str
    metadata: Metadata
    masks: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Pack:
    """All a worker needs for the stills of one pack; `crashed` are those at which its process died before."""

    name: str
    root: Path
    key: str
    settings: IngestSettings
    stills: tuple[Still, ...]
    pseudonymous: bool = False
    crashed: frozenset[str] = frozenset()

    @property
    def shown(self) -> str:
        """For messages: where it begins."""
        return f"{len(self.stills)} stills from {self.stills[0].shown} on"

    @property
    def videos(self) -> tuple[str, ...]:
        """What the catalog will call its pictures."""
        return tuple(still.name for still in self.stills)

    @property
    def bytes(self) -> int:
        """Size of the sources."""
        return sum(still.path.stat().st_size for still in self.stills if still.path.is_file())

    def described(self, done: VideoRecord) -> VideoRecord:
        """The record with what is known now of the pictures beside their pixels."""
        known = {still.name: still.metadata for still in self.stills}
        return replace(done, members=tuple(replace(m, metadata=known[m.name]) for m in done.members))

    def after_crash(self) -> Pack | None:
        """The same without the picture at which its process died; None where that cannot be told."""
        try:
            at = self.stills[int(_marker(self).read_text(encoding="ascii"))].name
        except (OSError, ValueError, IndexError):
            return None
        return None if at in self.crashed else replace(self, crashed=self.crashed | {at})

    def run(self) -> JobOutcome:
        """Do it. The shards get their names when they are complete, then the record is written."""
        record.forget(self.root, self.name)
        folder = self.root / "tmp" / self.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            return _Packing(self, folder).run()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _marker(self).unlink(missing_ok=True)


Work = Job | Pack
"""What a worker does at a time."""


def pack_name(names: Sequence[str]) -> str:
    """Told by what is in it: another ingest into the same folder has packs of other names."""
    return f"stills-{hashlib.sha256(chr(0).join(names).encode()).hexdigest()[:12]}"


def is_pack(name: str) -> bool:
    """Whether a record of this name may be that of a pack."""
    return _NAME.fullmatch(name) is not None


class _Packing:
    def __init__(self, pack: Pack, folder: Path) -> None:
        self.pack = pack
        self.writer = ShardWriter(folder, pack.name, pack.settings.shard_bytes)
        self.members: list[PackMember] = []
        self.rejected: list[Rejected] = []
        self.quality: list[pa.Table] = []

    def run(self) -> JobOutcome:
        with self.writer:
            for still in self._each():
                try:
                    self._add(still)
                except RejectError as error:
                    detail = error.plain if self.pack.pseudonymous else error.detail
                    self.rejected.append(Rejected(still.shown, error.reason, detail))
                    self.members.append(PackMember(still.name, still.metadata))
        frames = self.writer.frames()
        shards = publish_files(self.writer, self.pack.root)
        done = VideoRecord(
            name=self.pack.name,
            key=self.pack.key,
            metadata=Metadata("", 1, self.pack.stills[0].metadata.source),
            fps=0.0,
            duration_s=0.0,
            content_hash="",
            content="",
            crop=(),
            source_size=(),
            masks=(),
            text=(),
            damaged=0,
            shards=shards,
            rejected=tuple(self.rejected),
            members=tuple(self.members),
        )
        quality = pa.concat_tables(self.quality) if self.quality else quality_table([])
        record.save(self.pack.root, done, frames, quality)
        return JobOutcome(self.pack.name, frames.num_rows, rejected=done.rejected, stills=frames.num_rows)

    def _each(self) -> Iterator[Still]:
        """The stills in turn, and on the disk the number of the one at hand: a decoder may take the process down."""
        with _marker(self.pack).open("wb", buffering=0) as marker:
            for number, still in enumerate(self.pack.stills):
                os.pwrite(marker.fileno(), f"{number:09d}".encode(), 0)
                yield still

    def _add(self, still: Still) -> None:
        if still.name in self.pack.crashed:
            raise RejectError(*DIED)
        framing, data = _framed(still, self.pack.settings)
        stored = open_jpeg(data)
        self.quality.append(quality_table([measure(stored)]))
        self.writer.add(0.0, data, *stored.size, video=still.name)
        content = ContentHash()
        content.add(0.0, data)
        self.members.append(
            PackMember(
                name=still.name,
                metadata=still.metadata,
                content_hash=content.hexdigest(),
                content=framing.content.kind,
                crop=framing.content.box or (),
                source_size=framing.source_size,
                masks=tuple(itertools.chain.from_iterable(still.masks)),
            )
        )


def _framed(still: Still, settings: IngestSettings) -> tuple[Framing, bytes]:
    """The JPEG to store. Raises RejectError, whatever a decoder raises, for what is no picture."""
    try:
        data = read_picture(still.path, settings.max_pixels)
        image = open_still(data, settings.max_pixels)
        framing = Framing(settings, still.masks)
        framing.find_content([image])
        return framing, framing.packed(data, image)
    except RejectError:
        raise
    except MemoryError as error:
        raise RejectError("out of memory", "the picture does not fit into memory; try fewer --workers") from error
    except OSError:
        raise
    except Exception as error:
        raise RejectError("unexpected error", type(error).__name__, str(error)) from error


def _marker(pack: Pack) -> Path:
    return pack.root / "tmp" / f".{pack.name}.at"
