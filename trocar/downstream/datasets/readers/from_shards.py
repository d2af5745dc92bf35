"""Pictures of labelled frames from a shards folder: every label finds the ingested frame of its video and its time.

What curation thinks of a frame plays no part: scoring needs every labelled frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.framing import Box, ShownPictures
from trocar.data.media.video_index import Ints
from trocar.downstream.datasets.readers.videos import probe
from trocar.downstream.labels import LabelledFrames
from trocar.errors import TrocarError

ROW = "shard_row"
TOLERANCE = 1e-3
"""Seconds: times of an ingest are stored in float32, a containers' in its own ticks."""


def locate(data: LabelledFrames, shards: Path) -> LabelledFrames:
    """The same labels with a column `shard_row`, so that pictures are read from `shards` and not from `path`; masks are
    cut as ingest has cut the pictures.

    Videos are matched by name. A picture of a video is found by when it is shown: for the time of each ingested frame
    it is known which picture was on display, and of several that show it the nearest in time is taken. An image, and a
    picture that no ingested frame shows, get the nearest ingested frame within half the time from one label to the
    next.
    Raises TrocarError with the numbers where a label has none, ConfigError where there is no catalog.
    """
    catalog = Catalog.open(shards)
    row = np.full(len(data), -1, dtype=np.int64)
    names = catalog.videos["name"].to_pylist()
    place = {name: index for index, name in enumerate(names)}
    half = label_period(data.frames) / 2 + TOLERANCE
    for video, frames in data.frames.groupby("video", sort=False):
        if video not in place:
            continue
        times = frames["time_s"].to_numpy(np.float64)
        nearest = _rows(catalog, place[str(video)], times, half)
        path = data.root / str(frames["path"].iloc[0])
        if (frames["frame"] >= 0).all() and frames["path"].nunique() == 1 and path.is_file():
            showing = _rows_that_show(catalog, place[str(video)], frames["frame"].to_numpy(np.int64), times, path)
            nearest = np.where(showing >= 0, showing, nearest)
        row[frames.index] = nearest
    _refuse(data, shards, row, set(names))
    shown = _shown(data, catalog, place) if "mask" in data.frames else {}
    notes = data.notes
    if shown:
        notes += (f"masks of {len(shown)} videos are cut to what {shards} shows of them (--crop none shows all)",)
    return replace(data, frames=data.frames.assign(**{ROW: row}), shards=Path(shards), shown=shown, notes=notes)


def _shown(data: LabelledFrames, catalog: Catalog, place: Mapping[str, int]) -> dict[str, ShownPictures]:
    """What ingest has left of the pictures of the labelled videos, where that is not all."""
    found = {}
    for video in data.frames["video"].unique():
        crop, size, hidden = (catalog.videos[name][place[video]].as_py() for name in ("crop", "source_size", "masks"))
        if not crop and not hidden:
            continue
        if not size:
            raise TrocarError(
                f"{catalog.root}: the catalog does not say how large the pictures of {video} were before it cut them, "
                "so its masks cannot be cut; run `trocar ingest` again"
            )
        (box,) = _boxes(crop or [0, 0, *size])
        found[str(video)] = ShownPictures((size[0], size[1]), box, _boxes(hidden))
    return found


def _boxes(numbers: Sequence[int]) -> tuple[Box, ...]:
    return tuple((numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3]) for i in range(0, len(numbers), 4))


def label_period(frames: pd.DataFrame) -> float:
    """Seconds from one label to the next: the median over all videos, 1 where no video has two."""
    steps = frames.groupby("video", sort=False)["time_s"].diff().dropna()
    return float(steps.median()) if len(steps) else 1.0


def _rows(catalog: Catalog, video: int, times: npt.NDArray[np.float64], half: float) -> npt.NDArray[np.int64]:
    """Catalog row of the frame nearest to each time; -1 where it is more than `half` seconds away."""
    first, count = (int(catalog.videos[name][video].as_py()) for name in ("first_row", "rows"))
    if not count:
        return np.full(len(times), -1, dtype=np.int64)
    known = catalog.frames["time_s"][first : first + count].astype(np.float64)
    after = np.searchsorted(known, times).clip(0, count - 1)
    before = (after - 1).clip(0)
    nearest = np.where(np.abs(known[before] - times) <= np.abs(known[after] - times), before, after)
    near: npt.NDArray[np.int64] = np.where(np.abs(known[nearest] - times) <= half, first + nearest, -1)
    return near


def _rows_that_show(catalog: Catalog, video: int, frames: Ints, times: npt.NDArray[np.float64], path: Path) -> Ints:
    """Catalog row of an ingested frame that shows each picture of the video at `path`, the nearest; -1 where none does.

    Raises TrocarError for a video that can't be read.
    """
    first, count = (int(catalog.videos[name][video].as_py()) for name in ("first_row", "rows"))
    stored = catalog.frames["time_s"][first : first + count]
    known = stored.astype(np.float64)
    pictures = probe(path).index.at(known + np.spacing(stored))  # float32 may have rounded a time down
    rows = np.full(len(frames), -1, dtype=np.int64)
    begin, end = (np.searchsorted(pictures, frames, side) for side in ("left", "right"))
    for at in np.flatnonzero(begin < end):
        of_picture = np.arange(begin[at], end[at])
        rows[at] = first + of_picture[np.abs(known[of_picture] - times[at]).argmin()]
    return rows


def _refuse(data: LabelledFrames, shards: Path, row: npt.NDArray[np.int64], names: set[str]) -> None:
    lost = data.frames[row < 0]
    if lost.empty:
        return
    absent = sorted(set(lost["video"]) - names)
    what = f"{len(absent)} of their videos are not in it, the first is {absent[0]!r}; " if absent else ""
    one = lost.iloc[0]
    raise TrocarError(
        f"{shards}: {len(lost)} of {len(data)} labelled frames have no ingested frame near enough, the first is "
        f"{one['video']} at {one['time_s']:g} s; {what}ingest these videos at least as densely as they are labelled"
    )
