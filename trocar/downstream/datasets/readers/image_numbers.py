"""Images of a video at one a second: which second an image shows, and signs that they are not one a second.

People extract these images themselves: ffmpeg counts from 1, most scripts from 0, and some take all frames.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

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
