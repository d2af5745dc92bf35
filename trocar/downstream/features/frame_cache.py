"""Pixels of labelled frames, decoded once per data set and size and kept as memory-mapped uint8 arrays.

A frame is squashed to the size: a centre crop would cut off the sides of the picture, where instruments enter. A size
is the side of a square, or (height, width).
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from trocar.core.progress import track
from trocar.core.resources import granted_cores
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.prefetch import mixed
from trocar.data.loading.reader import BadContentError, Reader
from trocar.data.loading.steps import decode_jpeg
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.frame_conversion import Scaler, to_rgb
from trocar.data.media.still import read_still
from trocar.data.media.video_index import numbered_pictures, read_index
from trocar.downstream.datasets.readers.videos import unusable_video
from trocar.downstream.labels import LabelledFrames
from trocar.errors import TrocarError

Pixels = npt.NDArray[np.uint8]
Size = int | tuple[int, int]
FORMAT = "squash-bilinear-2"  # raised when decoding or resizing changes what is in the cache
SHARD_BATCH = 256  # frames of a shard that wait to be decoded
CORES_PER_VIDEO, MOST_VIDEOS, MOST_THREADS = 4, 8, 8


class FrameCache:
    """Decoded frames of one data set under `folder`, as `frames-<key>-<size>.npy` of shape [n, height, width, 3],
    RGB.
    """

    def __init__(self, data: LabelledFrames, folder: Path) -> None:
        self.data = data
        self.folder = folder
        self.key = _files_key(data)

    def get(self, size: Size) -> Pixels:
        """uint8 [n, height, width, 3] in the order of the table, memory-mapped; decoded now if it is not
        there.
        """
        self.prepare([size])
        pixels: Pixels = np.load(self.path(size), mmap_mode="r")
        return pixels

    def prepare(self, sizes: Sequence[Size]) -> None:
        """Decode every file once for all `sizes` that are not cached. Raises TrocarError for a file that
        cannot be read.
        """
        wanted = sorted({size for size in sizes if not self.path(size).is_file()}, key=extent)
        if not wanted:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with _Writer([self.path(size) for size in wanted], wanted, len(self.data)) as arrays:
            frames = decoded(self.data, wanted, videos_at_once())
            for row, images in track(frames, "decode frames", len(self.data)):
                for array, image in zip(arrays, images, strict=True):
                    array[row] = image

    def path(self, size: Size) -> Path:
        """Where the frames of `size` pixels are kept."""
        named = size if isinstance(size, int) else f"{size[0]}x{size[1]}"
        return self.folder / f"frames-{self.key}-{named}.npy"


class _Writer:
    """Arrays under temporary names, published by a rename only when all frames are in."""

    def __init__(self, paths: list[Path], sizes: list[Size], count: int) -> None:
        self.paths = paths
        self.parts = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
        self.arrays = [
            np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(count, *extent(size), 3))
            for part, size in zip(self.parts, sizes, strict=True)
        ]
        for part in self.parts:
            _reserve(part, self.parts)

    def __enter__(self) -> list[Pixels]:
        return list(self.arrays)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for array, part, path in zip(self.arrays, self.parts, self.paths, strict=True):
            array.flush()
            if kind is None:
                part.replace(path)
            else:
                part.unlink(missing_ok=True)


def _files_key(data: LabelledFrames) -> str:
    """Follows from which frames are read and from the size and modification time of every file, or the catalog."""
    digest = hashlib.sha256(FORMAT.encode())
    if data.shards is not None:
        digest.update(Catalog.open(data.shards).fingerprint.encode())
        digest.update(data.frames["shard_row"].to_numpy("<i8").tobytes())
        return digest.hexdigest()[:16]
    for path in sorted(data.frames["path"].unique()):
        status = os.stat(f"{data.root}/{path}")  # noqa: PTH116  five times as fast, and there are many
        digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    digest.update(data.frames[["path", "frame"]].to_csv(index=False).encode())
    return digest.hexdigest()[:16]


def decoded(data: LabelledFrames, sizes: Sequence[Size | None], videos: int = 1) -> Iterator[tuple[int, list[Pixels]]]:
    """(row, one uint8 [height, width, 3] per size) for every row: images in order first, then video by video. None is
    the picture's own size, upright.

    With several `videos` decoded at a time each one's rows come in order, and mixed with those of the others.

    Raises TrocarError naming the first file, or row of a shards folder, that cannot be decoded.
    """
    if data.shards is not None:
        yield from _read_shards(data, data.shards, sizes)
        return
    images = data.frames[data.frames["frame"] < 0]["path"]
    with ThreadPoolExecutor(_workers()) as pool:
        pictures = _in_order(pool, lambda path: _read_image(data.root / path, sizes), images)
        yield from ((int(row), frame) for row, frame in zip(images.index, pictures, strict=True))
    groups = data.frames[data.frames["frame"] >= 0].groupby("path", sort=False)["frame"]
    threads = max(1, min(MOST_THREADS, _workers() // videos))
    reads = [partial(_read_video, data.root / str(path), frames, sizes, threads) for path, frames in groups]
    if videos == 1:
        yield from (item for read in reads for item in read())
    else:
        yield from mixed(reads, min(videos, len(reads)))


def videos_at_once() -> int:
    """As the cores allow: a decoder makes good use of a few, and holds some twenty pictures of its video."""
    return max(1, min(MOST_VIDEOS, _workers() // CORES_PER_VIDEO))


def _workers() -> int:
    return granted_cores()


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[str], list[Pixels]], values: Iterable[str]
) -> Iterator[list[Pixels]]:
    """function(value) of each, in their order; no more of them are computed than are about to be taken."""
    running: deque[Future[list[Pixels]]] = deque()
    for value in values:
        running.append(pool.submit(function, value))
        if len(running) > 2 * _workers():
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _read_shards(
    data: LabelledFrames, shards: Path, sizes: Sequence[Size | None]
) -> Iterator[tuple[int, list[Pixels]]]:
    """Read in the order of the rows by one thread, decode by several: a reader's files belong to one thread."""
    reader = Reader(Catalog.open(shards))
    rows = data.frames["shard_row"].to_numpy(np.int64)
    with ThreadPoolExecutor(_workers()) as pool:
        for start in range(0, len(rows), SHARD_BATCH):
            wanted = [(start + i, int(row)) for i, row in enumerate(rows[start : start + SHARD_BATCH])]
            jpegs = [_read_row(reader, data, position, row) for position, row in wanted]
            pictures = pool.map(lambda jpeg: _decode_row(jpeg, sizes), jpegs)
            for (position, row), images in zip(wanted, pictures, strict=True):
                if isinstance(images, RejectError):
                    raise _unusable(data, position, row, str(images))
                yield position, images


def _read_row(reader: Reader, data: LabelledFrames, position: int, row: int) -> bytes:
    try:
        return reader.read(row)
    except BadContentError as error:
        raise _unusable(data, position, row, str(error)) from None


def _decode_row(jpeg: bytes, sizes: Sequence[Size | None]) -> list[Pixels] | RejectError:
    """By the decoder of the pretraining; an error is handed on to where the row is known."""
    try:
        return _resize(Image.fromarray(decode_jpeg(jpeg).permute(1, 2, 0).numpy()), sizes)
    except RejectError as error:
        return error


def _unusable(data: LabelledFrames, position: int, row: int, reason: str) -> TrocarError:
    where = data.frames.iloc[position]
    return TrocarError(
        f"{data.shards}: row {row}, {where['video']} at {where['time_s']:g} s: {reason}; labelled frames are not "
        "replaced by others: restore the shard, or run `trocar ingest` again"
    )


def _read_image(path: Path, sizes: Sequence[Size | None]) -> list[Pixels]:
    try:
        return _resize(read_still(path), sizes)
    except RejectError as error:
        raise TrocarError(
            f"{path}: {error.reason}, {error.plain}; labelled frames are not replaced by others: restore or convert "
            "the file, or take it out of the labels"
        ) from None


def _read_video(
    path: Path, frames: pd.Series[int], sizes: Sequence[Size | None], threads: int
) -> Iterator[tuple[int, list[Pixels]]]:
    """One pass through the video; frame k is the k-th picture on display, counted from 0 as in the label files."""
    rows: dict[int, list[int]] = {}
    for row, frame in frames.items():
        rows.setdefault(int(frame), []).append(int(row))  # type: ignore[call-overload]
    scaler = Scaler()
    try:
        for number, picture in numbered_pictures(path, read_index(path), rows, threads):
            images = _resize(to_rgb(picture, scaler), sizes)
            yield from ((row, images) for row in rows[number])
    except RejectError as error:
        raise unusable_video(path, error) from None


def _resize(image: Image.Image, sizes: Sequence[Size | None]) -> list[Pixels]:
    shapes = [(image.height, image.width) if size is None else extent(size) for size in sizes]
    return [np.asarray(image.resize((w, h), Image.Resampling.BILINEAR), dtype=np.uint8) for h, w in shapes]


def extent(size: Size) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else size


def _reserve(path: Path, started: list[Path]) -> None:
    """Raises OSError now where the disk has no room: a write into mapped memory would kill the process later."""
    try:
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        for part in started:
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
