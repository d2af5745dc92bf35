"""Signs that the frames of a label file are not what they are taken for.

Images of a video at one a second: which second an image shows, and signs that they are not one a second.

People extract these images themselves: ffmpeg counts from 1, most scripts from 0, and some take all frames.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.errors import TrocarError

MOST, FEW = 1.5, 5
"""Images per labelled second from which on they cannot be one a second, and so many more may always lie behind the last
label.
"""


def numbered(paths: Iterable[Path]) -> dict[int, Path]:
    """Number at the end of its name -> image. Raises TrocarError for a name without one, or two of one number."""
    found: dict[int, Path] = {}
    for path in paths:
        digits = re.search(r"(\d+)$", path.stem)
        if digits is None:
            raise TrocarError(f"{path}: no number at the end of its name, so it cannot be told which second it shows")
        twin = found.setdefault(int(digits[1]), path)
        if twin != path:
            raise TrocarError(f"{path} and {twin.name} have the same number; keep one of them")
    return found


def first_number(numbers: Collection[int]) -> int:
    """The number of the image of second 0: an image 0 says that they count from 0, else they count from 1."""
    return 0 if 0 in numbers else 1


def refuse_dense(last_image_s: int, last_label_s: int, where: str) -> None:
    """Raises TrocarError where images that should be one a second go on for far longer than the labels.

    Both are seconds from 0 and count up to the last one, that included.
    """
    images, labels = last_image_s + 1, last_label_s + 1
    if images >= MOST * labels and images > labels + FEW:
        raise TrocarError(
            f"{where}: {images} images for {labels} labelled seconds, {images / labels:.3g} to a second; they are "
            "taken to be one a second, so each would get the label of another one: keep one image for each second, or "
            "complete the labels if their file is cut off"
        )


def refuse_shifted(images: Collection[int], labels: Collection[int], where: str) -> None:
    """Raises TrocarError where images that should have the numbers of their labels are all one ahead: the label of the
    first has no image, and there is one behind the last.
    """
    first, last = min(labels), max(labels)
    if first not in images and first + 1 in images and last + 1 in images:
        raise TrocarError(
            f"{where}: the labels go from {first} to {last}, the images from {min(images)} to {max(images)}: they seem "
            f"to count from 1. Rename them to count from 0, so that image {first + 1} becomes image {first}"
        )


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
