"""Masks are looked through before anything is learned from them: whether they fit their pictures, and what they hold.

Better now than in the middle of a training, or never: a mask of another aspect is stretched over its picture without a
word, and a class that is written as 255 is not scored at all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from trocar.core.files import write_atomic
from trocar.core.resources import granted_cores
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.still import still_size
from trocar.data.media.video_container import Size, video_sizes
from trocar.downstream.labels import IGNORED_PIXEL, LabelledFrames, LabelSpace, Mask
from trocar.errors import TrocarError

FORMAT = "masks-1"  # raised when masks are read or judged otherwise
Present = npt.NDArray[np.bool_]


def check_masks(data: LabelledFrames, folder: Path) -> None:
    """Look through all masks of `data`, unless that was done before; `folder` remembers it.

    Raises TrocarError for one that cannot be read, holds what is no class, or has another aspect than its picture, for
    a class that seems to be written as 255, and for pictures in shards that were not made of those of the data set.
    """
    for space in data.spaces:
        if space.kind == "mask":
            origin = space.merged_from or space
            done = folder / f"{FORMAT}-{_key(data, origin)}.checked"
            if not done.is_file():
                refuse_white(data, origin, survey(data, origin))
                _check_shards(data)
                folder.mkdir(parents=True, exist_ok=True)
                write_atomic(done, "")


def survey(data: LabelledFrames, space: LabelSpace) -> Present:
    """bool [N, K + 1]: which classes the mask of each row of the table has, and last, whether it has pixels that are
    not scored; all False for a row without a mask.

    Raises TrocarError for a mask that cannot be read, holds what is no class, or has another aspect than its picture.
    """
    classes = len(space.classes)
    found = np.zeros((len(data), classes + 1), dtype=bool)
    rows = np.flatnonzero(space.known(data.frames))
    sizes = cache(_sizes)

    def look(row: int) -> Present:
        frame = data.frames.iloc[row]
        mask = space.mask_at(data.root / str(frame["mask"]))
        _check_aspect(data, frame, mask, sizes(data.root / str(frame["path"]), int(frame["frame"]) >= 0))
        present = np.bincount(mask.ravel(), minlength=IGNORED_PIXEL + 1) > 0
        return np.append(present[:classes], present[IGNORED_PIXEL])

    with ThreadPoolExecutor(granted_cores()) as pool:
        for row, present in zip(rows, pool.map(look, rows.tolist()), strict=True):
            found[row] = present
    return found


def refuse_white(data: LabelledFrames, space: LabelSpace, present: Present) -> None:
    """Raises TrocarError where a class occurs in no mask of a survey while 255 does, unless that is meant so."""
    anywhere = np.asarray(present.any(axis=0), dtype=bool)
    lost = [name for name, here in zip(space.classes, anywhere, strict=False) if not here]
    if not (space.white_is_suspect and lost and anywhere[-1]):
        return
    masks, white = int(present.any(axis=1).sum()), int(present[:, -1].sum())
    first = data.frames["mask"].iloc[int(present[:, -1].argmax())]
    raise TrocarError(
        f"{data.root}: no mask has a pixel of {', '.join(map(repr, lost))}, but {white} of {masks} masks hold "
        f"{IGNORED_PIXEL} (the first is {first}), which means: not scored. In masks of 0 and 255 the class is written "
        f"as white: write its number (0 to {len(space.classes) - 1}) instead. Where {IGNORED_PIXEL} is meant and the "
        "class does not occur, say `not_scored: 255` in classes.yaml, or leave the class out"
    )


def same_aspect(a: Size, b: Size) -> bool:
    """Whether one picture is the other at another scale, to the rounding of a pixel of the smaller one."""
    (w, h), (wide, tall) = sorted((a, b), key=lambda size: size[0] * size[1])
    return abs(w - wide * h / tall) <= 1 or abs(h - tall * w / wide) <= 1


def _check_aspect(data: LabelledFrames, frame: pd.Series, mask: Mask, sizes: Sequence[Size]) -> None:
    size = (mask.shape[1], mask.shape[0])
    if not any(same_aspect(size, one) for one in sizes):
        turned = any(same_aspect(size[::-1], one) for one in sizes)
        hint = ": one of them lies on its side" if turned else ""
        raise TrocarError(
            f"{data.root / str(frame['mask'])}: the mask has {_named(size)} pixels, its picture "
            f"{frame['path']} {_named(sizes[0])}{hint}; a mask covers exactly what its picture shows, at any scale"
        )


def _sizes(path: Path, video: bool) -> tuple[Size, ...]:
    """(width, height) of a picture upright: as stored and, where its pixels are no squares, as displayed. Masks are
    drawn on either, and fit the picture either way.
    """
    try:
        return video_sizes(path) if video else (still_size(path),)
    except RejectError as error:
        raise TrocarError(f"{path}: {error.reason}: {error.detail}") from None


def _check_shards(data: LabelledFrames) -> None:
    """Raises TrocarError where ingested pictures were made of others than those the masks were drawn on."""
    if data.shards is None:
        return
    for video, frames in data.frames[data.frames["mask"] != ""].groupby("video", sort=False):
        shown, first = data.shown.get(str(video)), frames.iloc[0]
        sizes = _sizes(data.root / str(first["path"]), int(first["frame"]) >= 0)
        if shown is not None and not any(same_aspect(shown.size, one) for one in sizes):
            raise TrocarError(
                f"{data.shards}: {video} was ingested from pictures of {_named(shown.size)}, those of {data.root} have "
                f"{_named(sizes[0])}: their masks do not fit; ingest the data set's own pictures"
            )


def _named(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _key(data: LabelledFrames, space: LabelSpace) -> str:
    """Over the name, size and time of every mask and picture, and over what pictures in shards show."""
    digest = hashlib.sha256(repr((FORMAT, space.classes, space.white_is_suspect)).encode())
    digest.update(repr((str(data.shards), sorted(data.shown.items()))).encode())
    frames = data.frames[space.known(data.frames)]
    for file in _files(data, space, frames):
        status = os.stat(file)  # noqa: PTH116  five times as fast, and there are many
        digest.update(f"{file}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _files(data: LabelledFrames, space: LabelSpace, frames: pd.DataFrame) -> Iterator[Path]:
    for path in dict.fromkeys(frames["path"]):
        yield data.root / str(path)
    for mask in frames["mask"]:
        yield from space.files_at(data.root / str(mask))
