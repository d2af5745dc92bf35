"""Signs that the frames of a label file are not what they are taken for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from trocar.errors import TrocarError

FEWEST, SLOWEST = 5, 2.0
"""Rows below which, and frames per second below which, seconds cannot be told from frames."""
NEAR = 0.1
"""Of its length in seconds: how near to the end of the video rows that count seconds end."""


def refuse_seconds(frames: pd.Series, end_s: float, rate: float, path: Path) -> None:
    """Raises TrocarError where native frame indices of a label file look like seconds.

    That is: they go up one by one, and end about where the pictures do, in seconds. `end_s`: seconds that the pictures
    last, `rate`: their native frames per second.
    """
    numbers = np.sort(frames.to_numpy(np.int64))
    if len(numbers) < FEWEST or rate < SLOWEST or np.median(np.diff(numbers)) != 1:
        return
    if abs(int(numbers[-1]) + 1 - end_s) > max(1.5, NEAR * end_s):
        return
    raise TrocarError(
        f"{path}: {len(numbers)} rows, Frame {numbers[0]} to {numbers[-1]} one by one, for {end_s:.0f} s of pictures "
        f"at {rate:g} frames per second: these are seconds, where frames of the video are expected. Multiply Frame by "
        f"{rate:g} (and keep one image a second, if the pictures are images and there is one for every frame)"
    )


def unlabelled_end(last_s: float, end_s: float, video: str) -> list[str]:
    """A note where more than a tenth of the pictures comes after the last label: the label file may be cut off."""
    if last_s + 2 >= 0.9 * end_s:
        return []
    return [f"{video}: its labels end at {last_s:.0f} s, its pictures at {end_s:.0f} s"]


def refuse_numbers_of_seconds(frames: pd.Series, times: pd.Series, rate: float, where: str) -> None:
    """Raises TrocarError where numbers of frames are those of their seconds, in a video of more than one a second."""
    numbers, seconds = frames.to_numpy(np.int64), times.to_numpy(np.float64)
    if len(numbers) >= FEWEST and rate >= SLOWEST and (numbers == np.round(seconds)).all():
        raise TrocarError(
            f"{where}: column frame has the numbers of column time_s, but the video has {rate:g} frames per second: "
            f"frame is the number of a native frame, {round(rate * float(seconds.max()))} at {seconds.max():g} s"
        )
