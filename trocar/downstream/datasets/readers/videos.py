"""What label files and videos have in common: where a video is, when its pictures are shown, which its labels mean.

The pictures may also be those of a shards folder: every label finds the ingested frame of its video and its time. What
curation thinks of a frame plays no part: scoring needs every labelled frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.framing import Box, ShownPictures
from trocar.data.media.delivered_files import VIDEO_SUFFIXES, RejectError, composed, listed
from trocar.data.media.every_picture import SampleTimes
from trocar.data.media.video_index import Ints, VideoIndex, read_index
from trocar.downstream.labels import LabelledFrames
from trocar.errors import TrocarError


@dataclass(frozen=True, eq=False)
class Clip:
    """A video file and when each of its pictures is shown."""

    path: Path
    index: VideoIndex

    @property
    def frames(self) -> int:
        """Number of pictures."""
        return len(self.index)

    @property
    def fps(self) -> float:
        """Pictures per second of the whole video, by their times."""
        return self.index.fps

    @property
    def rate(self) -> float:
        """Pictures per second at the usual interval."""
        return round(float(1 / (self._step * self.index.tick)), 3)

    @property
    def end_s(self) -> float:
        """Seconds from the first picture to the end of the last."""
        return self.index.end_s

    def seconds(self, frames: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """When the pictures of these numbers are shown, float64[n]; those behind the last would go on at its pace."""
        numbers = np.asarray(frames, dtype=np.int64)
        ticks = self._ticks(int(numbers.max(initial=0)))[numbers]
        return np.asarray(ticks * float(self.index.tick), dtype=np.float64)

    def grid(self, last: int, fps: float) -> Ints:
        """Pictures 0..`last` taken `fps` times a second, each the one on display at the time as in an ingest; all of
        them where there are no more.
        """
        if fps >= self.fps:
            return np.arange(last + 1)
        ticks = self._ticks(last)
        times = SampleTimes(fps, self.index.tick)
        end = int(ticks[last]) + self._step
        due = list(itertools.takewhile(lambda tick: tick < end, map(times.due, itertools.count())))
        grid: Ints = np.unique(np.searchsorted(ticks, due, side="right") - 1).astype(np.int64)
        return grid

    @property
    def _step(self) -> int:
        return self.index.usual or self.index.end

    def _ticks(self, last: int) -> Ints:
        """Ticks of pictures 0..`last`."""
        ticks = self.index.ticks
        beyond = ticks[-1] + self._step * np.arange(1, last + 2 - len(ticks), dtype=np.int64)
        return np.concatenate([ticks, beyond])[: last + 1]


def find_clip(folders: Sequence[Path], stem: str) -> Clip | None:
    """The video called `stem`, whatever the case of its letters, in the first of `folders` that has it."""
    for folder in folders:
        for path in listed(folder, "*"):
            if path.suffix.lower() in VIDEO_SUFFIXES and composed(path.stem).lower() == composed(stem).lower():
                return probe(path)
    return None


def probe(path: Path) -> Clip:
    """Read when its pictures are shown. Raises TrocarError for what ingest would reject too."""
    try:
        return Clip(path, read_index(path))
    except RejectError as error:
        raise unusable_video(path, error) from None


def unusable_video(path: Path, error: RejectError) -> TrocarError:
    """What to tell of a labelled video that cannot be read, or not so that each label surely finds its picture."""
    return TrocarError(
        f"{path}: {error.reason}: {error.detail}; labels need every picture at its own time: get a whole copy of this "
        "video, or take it and its labels out of the data set"
    )


def frame_grid(last: int, rate: float, fps: float) -> Ints:
    """Frames 0..`last` of `rate` frames per second, taken `fps` times a second or all of them."""
    every = max(rate / fps, 1.0)
    frames = np.unique(np.round(np.arange(0, last / every + 1) * every).astype(np.int64))
    return frames[frames <= last]


def every_nth_second(seconds: pd.Series, fps: float) -> pd.Series:
    """Which labels of one a second to keep for `fps` a second: all from 1 up, every second one at 0.5."""
    kept: pd.Series = seconds % max(round(1 / fps), 1) == 0
    return kept


def located(labels: pd.DataFrame, clip: Clip, root: Path, video: str) -> tuple[pd.DataFrame, list[str]]:
    """Labels with a column `frame` (number of a picture) as rows of the table, at the times of these pictures, and a
    note on those behind the last one.

    Label files may run up to a second beyond the picture. Raises TrocarError where they run on for longer: then they
    are another video's, or of one with another frame rate.
    """
    over = labels["frame"] >= clip.frames
    if over.any() and labels["frame"].max() >= clip.frames + clip.fps + 1:
        raise TrocarError(
            f"{clip.path}: has {clip.frames} frames, but its labels go to frame {labels['frame'].max()}; "
            "is the video truncated, or re-encoded at another frame rate?"
        )
    rows, notes = labels.loc[~over], _left_over(over, clip, video)
    if skipped := clip.index.skipped:
        notes.append(
            f"{video}: {skipped} pictures are missing between others that come {clip.rate:g} times a second; its "
            "labels are taken to count the pictures that are there"
        )
    return rows.assign(time_s=clip.seconds(rows["frame"]), **_place(clip, root, video)), notes


def located_by_second(labels: pd.DataFrame, clip: Clip, root: Path, video: str) -> tuple[pd.DataFrame, list[str]]:
    """Labels with a column `second` as rows of the table: the picture on display at that second, as an ingest at 1 fps
    takes it. Notes and errors are those of `located`.
    """
    over = pd.Series(clip.index.ended(labels["second"].to_numpy(np.int64), 1.0), index=labels.index)
    if over.any() and labels["second"].max() >= clip.end_s + 1 + 1 / clip.fps:
        raise TrocarError(
            f"{clip.path}: ends at {clip.end_s:.2f} s, but its labels go to second {labels['second'].max()}; "
            "is the video truncated, or sped up?"
        )
    rows = labels.loc[~over]
    frame = clip.index.shown(rows["second"].to_numpy(np.int64), 1.0)
    rows = rows.assign(frame=frame, time_s=rows["second"].astype(np.float64), **_place(clip, root, video))
    return rows, _left_over(over, clip, video)


def _place(clip: Clip, root: Path, video: str) -> dict[str, str]:
    return {"path": str(clip.path.relative_to(root)), "video": video}


def _left_over(over: pd.Series, clip: Clip, video: str) -> list[str]:
    count = int(over.sum())
    return [f"{video}: {count} labels after the last of {clip.frames} frames left out"] if count else []


def left_out(what: str, names: Sequence[str]) -> list[str]:
    """A note that names what is missing, shortened; none where nothing is."""
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"{what}: {shown}"]


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
