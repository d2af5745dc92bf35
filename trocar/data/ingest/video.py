"""One video, or one folder of frames, into shards and a record. Runs in a worker process."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
from PIL import Image

from trocar.core.files import fsync_folder
from trocar.data.catalog.writer import Rejected, ShardFile
from trocar.data.ingest import framing, record
from trocar.data.ingest.burned_text import TextWatch
from trocar.data.ingest.framing import SAMPLES, Box, Framing, IngestSettings, reduced
from trocar.data.ingest.quality import FrameMeasures, measure, quality_table
from trocar.data.ingest.record import Metadata, VideoRecord
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.data.ingest.sources.find import FrameFile, FrameSpec, list_frames, printable, thin
from trocar.data.media.delivered_files import RejectError, read_picture
from trocar.data.media.frame_conversion import Scaler, orientation, to_rgb
from trocar.data.media.still import open_jpeg, open_still, read_still
from trocar.data.media.video_container import describe, key_frames, open_video
from trocar.data.media.video_decode import Decoder

_BUFFER_BYTES = 128 << 20
_FEW_KEY_FRAMES = 4


@dataclass(frozen=True)
class Job:
    """All a worker needs for one video.

    `masks` are (left, top, width, height) boxes in source pixels to black out, `excluded` are [start, end)
    times in seconds to leave out, `frames` is None for a video file. `shown` is the path as the user gave it, or the
    pseudonym of a `pseudonymous` one.
    """

    name: str
    path: Path
    shown: str
    root: Path
    key: str
    settings: IngestSettings
    metadata: Metadata
    frames: FrameSpec | None = None
    masks: tuple[Box, ...] = ()
    excluded: tuple[tuple[float, float], ...] = ()
    threads: int = 1
    pseudonymous: bool = False

    @property
    def videos(self) -> tuple[str, ...]:
        """What the catalog will call it."""
        return (self.name,)

    @property
    def bytes(self) -> int:
        """Size of the source, 0 where it cannot be told."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def described(self, done: VideoRecord) -> VideoRecord:
        """The record with what is known now of the video beside its frames."""
        return replace(done, metadata=self.metadata)

    def run(self) -> JobOutcome:
        """Do it, see `ingest`."""
        return ingest(self)

    def after_crash(self) -> None:
        """There is nothing to leave out when its process died: the video cannot be decoded."""

    def rejected(self, error: RejectError, frame: FrameFile | None = None) -> Rejected:
        """What to note of the video, or of one frame of a folder."""
        if self.pseudonymous:
            # Names of frame files and what a file says may name a patient as well.
            return Rejected(self.shown + (f" at {frame.time_s:g} s" if frame else ""), error.reason, error.plain)
        return Rejected(self.shown + (f"/{printable(frame.path.name)}" if frame else ""), error.reason, error.detail)


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job: frames written and seconds of video, or why not. `rejected` also counts single
    images; `damaged` and `notes` are those of the record, `stills` are the frames of a pack.
    """

    name: str
    frames: int = 0
    duration_s: float = 0.0
    rejected: tuple[Rejected, ...] = ()
    finished: bool = True
    damaged: int = 0
    notes: tuple[str, ...] = ()
    stills: int = 0


def ingest(job: Job) -> JobOutcome:
    """Decode one video or folder of frames. Shards get their names when they are complete, then the record is written.

    A video that cannot be decoded is an Outcome, whatever its decoder raises; an OSError (a full disk) is raised and
    leaves nothing in place.
    """
    record.forget(job.root, job.name)
    folder = job.root / "tmp" / job.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return _decoded(job, folder)
    except RejectError as error:
        rejected = job.rejected(error)
        record.save_rejected(job.root, job.name, rejected)
        return JobOutcome(job.name, rejected=(rejected,), finished=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _decoded(job: Job, folder: Path) -> JobOutcome:
    try:
        return _FolderIngest(job, folder).run() if job.frames else _VideoIngest(job, folder).run()
    except RejectError:
        raise
    except av.FFmpegError as error:  # first: some are OSErrors too, but say nothing of the disk
        raise RejectError("undecodable video", error.strerror or type(error).__name__) from error
    except MemoryError as error:
        raise RejectError("out of memory", "its pictures don't fit into memory; try fewer --workers") from error
    except OSError:
        raise
    except Exception as error:
        # One file that a decoder chokes on in a new way must not end the work on all others.
        raise RejectError("unexpected error", type(error).__name__, str(error)) from error


class _Ingest(Framing):
    """What both kinds share: from images with times to shards, verdicts and a record."""

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job.settings, job.masks)
        self.job = job
        self.writer = ShardWriter(folder, job.name, job.settings.shard_bytes)
        self.measures: list[FrameMeasures] = []
        self.text = TextWatch()

    def kept(self, time_s: float) -> bool:
        return not any(start <= time_s < end for start, end in self.job.excluded)

    def add(self, time_s: float, data: bytes) -> None:
        stored = open_jpeg(data)
        self.measures.append(measure(stored))
        self.text.add(stored)
        self.writer.add(time_s, data, *stored.size)

    def publish(
        self,
        fps: float,
        duration_s: float,
        *,
        damaged: int = 0,
        notes: tuple[str, ...] = (),
        rejected: tuple[Rejected, ...] = (),
    ) -> JobOutcome:
        job, frames = self.job, self.writer.frames()
        shards = publish_files(self.writer, job.root)
        done = VideoRecord(
            name=job.name,
            key=job.key,
            metadata=job.metadata,
            fps=fps,
            duration_s=duration_s,
            content_hash=self.writer.content.hexdigest(),
            content=self.content.kind,
            crop=self.content.box or (),
            source_size=self.source_size,
            masks=tuple(itertools.chain.from_iterable(job.masks)),
            text=tuple(itertools.chain.from_iterable(self.text_boxes())),
            damaged=damaged,
            shards=shards,
            rejected=rejected,
            notes=notes,
        )
        record.save(job.root, done, frames, quality_table(self.measures))
        return JobOutcome(job.name, frames.num_rows, duration_s, rejected, damaged=damaged, notes=notes)

    def text_boxes(self) -> list[Box]:
        """Where text is burned in; not told where the source pictures differ in size."""
        return self.text.boxes(self.content.box or (0, 0, *self.sizes[0])) if len(self.sizes) == 1 else []


def publish_files(writer: ShardWriter, root: Path) -> tuple[ShardFile, ...]:
    """Give finished shards their names in the shards folder."""
    for path in sorted(writer.folder.iterdir()):
        path.replace(root / "shards" / path.name)
    fsync_folder(root / "shards")
    return tuple(writer.shards())


class _VideoIngest(_Ingest):
    def run(self) -> JobOutcome:
        decoder = Decoder(self.job.path, self.settings.fps, self.settings, self.job.threads)
        frames = decoder.frames()
        if self.settings.crop == "auto":
            frames = self._look_ahead(frames)
        scaler = Scaler()
        with self.writer:
            for time_s, frame in frames:
                if self.kept(time_s):
                    aspect = decoder.pixel_aspect
                    self.pixel_aspect = 1 / aspect if orientation(frame).transposed else aspect
                    self.add(time_s, self._jpeg(frame, scaler))
        if not self.measures:
            raise RejectError("no frames", "every frame is excluded")
        damaged = decoder.damage.frames
        return self.publish(self.settings.fps, decoder.duration_s, damaged=damaged, notes=decoder.notes)

    def _jpeg(self, frame: av.VideoFrame, scaler: Scaler) -> bytes:
        if self.job.masks or not orientation(frame).is_upright:
            return self.encode(to_rgb(frame))
        size = frame.width, frame.height
        self.expect(size)
        pixels = scaler.rgb(frame, self.content.box, self.target(size))
        return framing.encode(Image.fromarray(pixels), self.settings.jpeg_quality)

    def _find_content_in(self, frames: list[av.VideoFrame]) -> None:
        """The same from frames, which need no more than the few pixels that are looked at."""
        frames = [frame for frame in frames if (frame.width, frame.height) == (frames[0].width, frames[0].height)]
        if self.job.masks or not frames or not orientation(frames[0]).is_upright:
            self.find_content(to_rgb(frame) for frame in frames)
            return
        size = frames[0].width, frames[0].height
        scaler, small = Scaler(), reduced(size)
        self.find_content((Image.fromarray(scaler.rgb(frame, None, small)) for frame in frames), size)

    def _look_ahead(self, frames: Iterator[tuple[float, av.VideoFrame]]) -> Iterator[tuple[float, av.VideoFrame]]:
        """Find the content box before the first frame is written, without a second decode where that can
        be.
        """
        job = self.job
        with open_video(job.path) as (container, stream):
            info = describe(container, stream, self.settings)
        expected = (info.duration_s or 3600.0) * self.settings.fps
        if expected * info.width * info.height * 1.5 <= _BUFFER_BYTES:
            held = list(itertools.islice(frames, int(expected) + 2))
            picked = held[:: max(1, len(held) // SAMPLES)]
            self._find_content_in([frame for time_s, frame in picked if self.kept(time_s)])
            return itertools.chain(held, frames)
        images = key_frames(job.path, self.settings, SAMPLES)
        if len(images) < _FEW_KEY_FRAMES:
            fps = max(SAMPLES / (info.duration_s or 60.0), 1e-4)
            passes = Decoder(job.path, fps, self.settings, job.threads).frames()
            images = [to_rgb(frame) for _, frame in itertools.islice(passes, SAMPLES)]
        self.find_content(images)
        return frames


class _FolderIngest(_Ingest):
    def run(self) -> JobOutcome:
        spec = self.job.frames
        assert spec is not None
        listed = list_frames(self.job.path, spec)
        chosen = [f for f in thin(listed, self.settings.fps) if self.kept(f.time_s)]
        self.find_content(self._sample(chosen))
        rejected = []
        with self.writer:
            for frame in chosen:
                try:
                    data = read_picture(frame.path, self.settings.max_pixels)
                    image = open_still(data, self.settings.max_pixels)
                    self.add(frame.time_s, self.packed(data, image))
                except RejectError as error:
                    rejected.append(self.job.rejected(error, frame))
        if not self.measures:
            first = rejected[0] if rejected else None
            why = f"{len(rejected)} images rejected, first: {first.reason} ({first.path})" if first else "all excluded"
            raise RejectError("no frames", why)
        duration = listed[-1].time_s + 1 / spec.fps
        return self.publish(min(spec.fps, self.settings.fps), duration, rejected=tuple(rejected))

    def _sample(self, frames: list[FrameFile]) -> Iterator[Image.Image]:
        size: tuple[int, int] | None = None
        for frame in frames[:: max(1, len(frames) // SAMPLES)] if self.settings.crop == "auto" else ():
            try:
                image = read_still(frame.path, self.settings.max_pixels)
            except RejectError:
                continue
            size = size or image.size
            if image.size == size:
                yield image
