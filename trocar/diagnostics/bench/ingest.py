"""Ingest against the ffmpeg command line writing the same frames as JPEGs, and against a bare decode.

All three work on the same files with the same number of processes and threads, each in fresh processes, in turns.
ffmpeg is told what ingest has to find out: the content box and the size of the pictures.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.sources.find import FoundSource, find
from trocar.data.media.still import open_jpeg
from trocar.diagnostics.bench.timed import bare_decode, timed
from trocar.errors import ConfigError, TrocarError

CONTENDERS = ("trocar", "ffmpeg", "decode")
JPEG_SCALE = "2"
"""ffmpeg's best usual JPEG quality; its files are somewhat larger than those of ingest's default."""


@dataclass(frozen=True)
class IngestTarget:
    """What ingest made of a video: `box` (left, top, width, height) cut out, then scaled to `size`; `pictures` are
    its JPEGs in time order.
    """

    video: FoundSource
    box: tuple[int, ...]
    size: tuple[int, int]
    pictures: tuple[bytes, ...]
    coded: int
    tick: Fraction
    frame_s: float


@dataclass(frozen=True)
class Agreement:
    """Frames of ingest against those of ffmpeg: mean absolute difference of the luma (0..255) to the same frame, and to
    the video's next and previous one; `nearer` counts frames to which one of those is nearer than the same.
    """

    video: str
    frames: int
    ffmpeg_frames: int
    difference: float
    neighbour_difference: float
    nearer: int

    @property
    def same(self) -> bool:
        """Whether both found the same frames."""
        return self.frames == self.ffmpeg_frames and self.nearer == 0


def measure(folder: Path, fps: float, repeats: int, workers: int, say: Say) -> list[dict[str, Any]]:
    """One dict per repeat and contender: `contender` (trocar, ffmpeg, decode), `repeat`, `seconds` on the clock,
    `cpu_seconds` of processor time, `frames` written (decoded, for decode), `video_seconds` of all files.

    Everything runs once before, so the files are in memory. Raises TrocarError where ffmpeg is missing or fails, or
    ingest rejects a video, ConfigError for a folder without videos.
    """
    ffmpeg = find_ffmpeg()
    trials = []
    with _scratch() as scratch:
        targets = prepare(folder, fps, workers, scratch)
        seconds = sum(target.coded * target.frame_s for target in targets)
        say(f"{len(targets)} videos, {seconds:.0f} s, {sum(len(t.pictures) for t in targets)} frames at {fps:g} fps")
        for repeat in range(repeats):
            for contender in CONTENDERS[repeat % 3 :] + CONTENDERS[: repeat % 3]:
                trial = _trial(contender, targets, folder, fps, workers, ffmpeg, scratch)
                trials.append({"contender": contender, "repeat": repeat, "video_seconds": seconds, **trial})
                say(f"{contender}: {trial['seconds']:.2f} s, {trial['cpu_seconds']:.2f} s of processor time")
    return trials


def compare_frames(folder: Path, fps: float, workers: int) -> list[Agreement]:
    """Whether ingest and ffmpeg choose the same frames, judged by their pictures. Raises as `measure` does."""
    ffmpeg = find_ffmpeg()
    with _scratch() as scratch:
        return [_agreement(target, fps, ffmpeg, scratch) for target in prepare(folder, fps, workers, scratch)]


def find_ffmpeg() -> str:
    """The ffmpeg on the PATH, else the one that imageio-ffmpeg brings. Raises TrocarError where there is none."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise TrocarError(
            "no ffmpeg command on the PATH to compare with: install it (Debian and Ubuntu: apt-get install ffmpeg; "
            "conda: conda install ffmpeg; or: pip install imageio-ffmpeg)"
        ) from None


def prepare(folder: Path, fps: float, workers: int, scratch: Path) -> list[IngestTarget]:
    """Ingest the folder once and say what came out for each video."""
    videos = {item.name: item for item in find([folder], None).items if not item.is_folder}
    if not videos:
        raise ConfigError(f"{folder}: no video files in it; frame folders need no decoding")
    out = scratch / "prepared"
    timed([_ingest_command(folder, out, fps, workers)], 1)
    catalog = Catalog.open(out)
    targets = [_target(catalog, row, videos[row["name"]]) for row in catalog.videos.to_pylist()]
    shutil.rmtree(out)
    return targets


def ffmpeg_command(
    target: IngestTarget, fps: float, threads: int, ffmpeg: str, out: Path, shift_s: float = 0.0
) -> list[str]:
    """The ffmpeg command that writes the frames ingest chooses, as OUT/000001.jpg and so on.

    `round=up` gives a frame's timestamp the next sample time, and the last frame with one stays: the one on display.
    The tick taken off is ingest's tolerance; `shift_s` shows all frames later, for a look at their neighbours.
    """
    tolerance = 1 if target.tick <= Fraction(1, 1000) else 0
    left, top, width, height = target.box
    filters = [
        f"setpts=PTS-STARTPTS-{tolerance}+({shift_s:.6f})/TB",
        f"fps=fps={Fraction(fps).limit_denominator(100_000)}:round=up:start_time=0",
        f"crop={width}:{height}:{left}:{top}",
        f"scale={target.size[0]}:{target.size[1]}:flags=bicubic",
        "setsar=1",
    ]
    source = ["-threads", str(threads), "-i", f"file:{target.video.path.resolve()}", "-map", "0:v:0"]
    sink = ["-threads", str(threads), "-pix_fmt", "yuvj420p", "-q:v", JPEG_SCALE, f"{out}/%06d.jpg"]
    head = [ffmpeg, "-nostdin", "-loglevel", "error", "-noautorotate", "-filter_threads", "1"]
    return [*head, *source, "-vf", ",".join(filters), *sink]


def _target(catalog: Catalog, row: dict[str, Any], video: FoundSource) -> IngestTarget:
    first = row["first_row"]
    pictures = []
    for i in range(first, first + row["rows"]):
        offset, size = int(catalog.frames["offset"][i]), int(catalog.frames["size"][i])
        with catalog.shard_paths[catalog.frames["shard"][i]].open("rb") as shard:
            shard.seek(offset)
            pictures.append(shard.read(size))
    with av.open(str(video.path)) as container:
        stream = container.streams.video[0]
        coded = sum(1 for packet in container.demux(stream) if packet.size)
        whole = (0, 0, stream.codec_context.width, stream.codec_context.height)
        tick = Fraction(stream.time_base or Fraction(1, 1000))
    stored = int(catalog.frames["width"][first]), int(catalog.frames["height"][first])
    box = tuple(row["crop"] or ()) or whole
    return IngestTarget(video, box, stored, tuple(pictures), coded, tick, row["duration_s"] / max(1, coded))


def _trial(
    contender: str, targets: Sequence[IngestTarget], folder: Path, fps: float, workers: int, ffmpeg: str, scratch: Path
) -> dict[str, Any]:
    # As ingest does it: a process per video, and only with fewer videos than that a video gets more threads.
    threads = max(1, workers // len(targets))
    out = scratch / contender
    frames = sum(len(target.pictures) for target in targets)
    if contender == "trocar":
        cost = timed([_ingest_command(folder, out, fps, workers)], 1)
    elif contender == "ffmpeg":
        commands = []
        for target in targets:
            (out / target.video.name).mkdir(parents=True)
            commands.append(ffmpeg_command(target, fps, threads, ffmpeg, out / target.video.name))
        cost = timed(commands, workers)
        frames = sum(1 for _ in out.rglob("*.jpg"))
    else:
        cost = timed([bare_decode(workers, threads, [str(target.video.path) for target in targets])], 1)
        frames = sum(target.coded for target in targets)
    shutil.rmtree(out, ignore_errors=True)
    return {"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds, "frames": frames}


def _ingest_command(folder: Path, out: Path, fps: float, workers: int) -> list[str]:
    options = ["--fps", repr(fps), "--workers", str(workers)]
    return [sys.executable, "-m", "trocar", "ingest", str(folder), "--out", str(out), *options]


def _agreement(target: IngestTarget, fps: float, ffmpeg: str, scratch: Path) -> Agreement:
    ours = [_luma(data) for data in target.pictures]
    differences = []
    count = 0
    for shift_s in (0.0, target.frame_s, -target.frame_s):
        out = scratch / "compared"
        out.mkdir()
        timed([ffmpeg_command(target, fps, 1, ffmpeg, out, shift_s)], 1)
        theirs = [_luma(path.read_bytes()) for path in sorted(out.glob("*.jpg"))]
        count = count or len(theirs)
        differences.append([float(np.abs(a - b).mean()) for a, b in zip(ours, theirs, strict=False)])
        shutil.rmtree(out)
    same, *others = differences
    # At both ends of the video there is no neighbour: ffmpeg repeats the frame itself.
    inner = range(1, min(len(values) for values in differences) - 1)
    nearest = [min(values[i] for values in others) for i in inner]
    return Agreement(
        video=target.video.name,
        frames=len(ours),
        ffmpeg_frames=count,
        difference=float(np.mean(same)) if same else 0.0,
        neighbour_difference=float(np.mean(nearest)) if nearest else 0.0,
        nearer=sum(same[i] > other for i, other in zip(inner, nearest, strict=True)),
    )


def _luma(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(open_jpeg(data).convert("L"), np.float32)


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trocar-bench-") as folder:
        yield Path(folder)
