"""Reading masks as they are published: three equal channels, an alpha channel, palettes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from trocar.downstream.datasets.table import IGNORED_PIXEL, Mask
from trocar.errors import TrocarError


def open_mask(path: Path) -> Image.Image:
    """The decoded picture. Raises TrocarError for a file that is none."""
    try:
        with Image.open(path) as image:
            decoded: Image.Image = image.copy()
            return decoded
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise TrocarError(f"{path}: cannot be decoded as a mask: {error}") from None


def read_grey(path: Path) -> Mask:
    """uint8 [H, W]: the one value that the colour channels share; an alpha channel is dropped.

    Raises TrocarError where the channels differ: that is a picture in colour, not a mask.
    """
    image = open_mask(path)
    if image.mode == "L":
        return np.array(image, dtype=np.uint8)
    values = np.array(image.convert("RGB"), dtype=np.uint8)
    if (values != values[..., :1]).any():
        raise TrocarError(f"{path}: its channels differ; expected a grey mask, this is in colour")
    return np.ascontiguousarray(values[..., 0])


def read_indices(path: Path, classes: int) -> Mask:
    """uint8 [H, W] of a mask whose value is the class index, 0 to `classes` - 1, or 255: not scored.

    In a picture with a palette the index counts, not the colour. Raises TrocarError for any other value.
    """
    image = open_mask(path)
    mask = np.array(image, dtype=np.uint8) if image.mode == "P" else read_grey(path)
    return checked(mask, classes, path)


def look_up(mask: Mask, table: npt.NDArray[np.int16], path: Path) -> Mask:
    """`table[value]` per pixel; -1 in the table is a value that must not occur. Raises TrocarError if it does."""
    found = table[mask]
    if (found < 0).any():
        strangers = sorted({int(value) for value in mask[found < 0]})
        raise TrocarError(f"{path}: the mask holds unknown values {strangers[:10]}")
    return found.astype(np.uint8)


def checked(mask: Mask, classes: int, path: Path) -> Mask:
    """The mask itself. Raises TrocarError for values that are neither a class nor 255."""
    strangers = np.unique(mask[(mask >= classes) & (mask != IGNORED_PIXEL)])
    if len(strangers):
        raise TrocarError(
            f"{path}: the mask holds {strangers[:10].tolist()}, but there are {classes} classes (0 to {classes - 1}; "
            f"{IGNORED_PIXEL}: not scored)"
        )
    return mask
