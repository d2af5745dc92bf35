"""What label files and videos have in common: where a video is, how fast it runs, which frames its labels mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pandas as pd

from trocar.data.media.file_names import composed
from trocar.data.media.folders import listed
from trocar.data.media.suffixes import VIDEO_SUFFIXES
from trocar.errors import TrocarError


@dataclass(frozen=True)
class Clip:
    """A video file, its number of frames and its native frames per second, both from the container."""

    path: Path
    frames: int
    fps: float


def find_clip(folders: Sequence[Path], stem: str) -> Clip | None:
    """The video called `stem`, whatever the case of its letters, in the first of `folders` that has it."""
    for folder in folders:
        for path in listed(folder, "*"):
            if path.suffix.lower() in VIDEO_SUFFIXES and composed(path.stem).lower() == composed(stem).lower():
                return probe(path)
    return None


def probe(path: Path) -> Clip:
    """Read the container. Raises TrocarError for a file that is no video or does not say its frame rate."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0)
            frames = stream.frames or sum(1 for _ in container.demux(stream)) - 1
    except (av.FFmpegError, IndexError) as error:
        raise TrocarError(f"{path}: cannot be opened as a video: {error}") from None
    if rate <= 0:
        raise TrocarError(f"{path}: the container does not say how many frames per second it has")
    return Clip(path, int(frames), rate)


def frame_grid(last: int, rate: float, fps: float) -> npt.NDArray[np.int64]:
    """Native frames 0..`last` of a video of `rate` frames per second, taken `fps` times a second or all of them."""
    every = max(rate / fps, 1.0)
    frames = np.unique(np.round(np.arange(0, last / every + 1) * every).astype(np.int64))
    return frames[frames <= last]


def every_nth_second(seconds: pd.Series, fps: float) -> pd.Series:
    """Which labels of one a second to keep for `fps` a second: all from 1 up, every second one at 0.5."""
    kept: pd.Series = seconds % max(round(1 / fps), 1) == 0
    return kept


def located(labels: pd.DataFrame, clip: Clip, root: Path, video: str) -> tuple[pd.DataFrame, list[str]]:
    """Labels with a column `frame` (native index) as rows of the table, and a note on those behind the last frame.

    Label files may run up to a second beyond the picture. Raises TrocarError where they run on for longer: then they
    are another video's, or of one with another frame rate.
    """
    over = labels["frame"] >= clip.frames
    if over.any() and labels["frame"].max() >= clip.frames + clip.fps + 1:
        raise TrocarError(
            f"{clip.path}: has {clip.frames} frames, but its labels go to frame {labels['frame'].max()}; "
            "is the video truncated, or re-encoded at another frame rate?"
        )
    notes = [f"{video}: {int(over.sum())} labels after the last of {clip.frames} frames left out"] if over.any() else []
    rows = labels.loc[~over]
    return rows.assign(path=str(clip.path.relative_to(root)), video=video, time_s=rows["frame"] / clip.fps), notes


def left_out(what: str, names: Sequence[str]) -> list[str]:
    """A note that names what is missing, shortened; none where nothing is."""
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"{what}: {shown}"]
