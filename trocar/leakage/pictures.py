"""Hashes by which the same picture is found again: the catalog's 256-bit difference hash, and a test frame's variants.

A copy may have lost its border, and the pool its black surround (`trocar ingest` cuts it off), so a test frame is
hashed several times: whole and without the surround, each also without a border of 4 and of 8 %, and all of these
mirrored, as augmented collections have them. Of a single picture the surround that is found depends on little: it is
looked for in a brighter and in a cut version too. Upside down and turned by half, which is how a reader that ignores
a video's display matrix stores it, are hashed without a further border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from trocar.core.random import I64
from trocar.data.ingest.framing import SAMPLES, find_content
from trocar.data.ingest.quality import LEAST_BITS, cells, differences, set_bits

U8 = npt.NDArray[np.uint8]
BORDERS = (0.0, 0.04, 0.08)
"""Part of each side that is cut off."""
CROPS = 2 * len(BORDERS) + 2
"""Whole with each border, without the surround with each border, and without the two other surrounds."""
TURNS: tuple[tuple[slice, slice, tuple[int, ...]], ...] = (
    (slice(None), slice(None), tuple(range(CROPS))),
    (slice(None), slice(None, None, -1), tuple(range(CROPS))),
    (slice(None, None, -1), slice(None), (0, len(BORDERS))),
    (slice(None, None, -1), slice(None, None, -1), (0, len(BORDERS))),
)
"""As it is, mirrored, upside down, turned by half: order of rows and columns, and the crops that are hashed so."""
VARIANTS = sum(len(crops) for _, _, crops in TURNS)
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as parts of width and height."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Pictures:
    """Hashed frames of some videos, in order of video and time.

    `hashes` uint8[n, V, 32] (V = 1 for a pool), `video` int64[n] an index into `names`, `time_s` float64[n] seconds
    in the video. `names`: the name of each video; `cases`: the case (data set, case) of each. `rows` int64[n]: the
    catalog row of each frame of a pool, else its number here. `untimed`: times are only an order, which may be any.
    """

    hashes: U8
    video: npt.NDArray[np.int64]
    time_s: npt.NDArray[np.float64]
    names: tuple[str, ...]
    cases: tuple[tuple[str, str], ...]
    rows: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    untimed: bool | tuple[bool, ...] = False

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.video):
            object.__setattr__(self, "rows", np.arange(len(self.video)))

    def __len__(self) -> int:
        return len(self.video)

    def informative(self) -> Pictures:
        """Without the frames that look the same in every operation."""
        return self.only(set_bits(self.hashes[:, 0]) >= LEAST_BITS)

    def only(self, keep: npt.NDArray[np.bool_]) -> Pictures:
        """The frames of bool[n]."""
        return Pictures(
            self.hashes[keep],
            self.video[keep],
            self.time_s[keep],
            self.names,
            self.cases,
            self.rows[keep],
            self.untimed,
        )

    def isolated(self, fewest: int) -> npt.NDArray[np.bool_]:
        """bool[videos]: those of fewer than `fewest` different times, or of times that say nothing."""
        # Pictures without times of their own all stand at second 0.
        times = np.unique(np.stack([self.video.astype(np.float64), self.time_s]), axis=1)[0].astype(np.int64)
        few = np.bincount(times, minlength=len(self.names)) < fewest
        alone: npt.NDArray[np.bool_] = few | np.array(self.untimed, bool)
        return alone

    @staticmethod
    def join(parts: Sequence[Pictures]) -> Pictures:
        """All of them; videos stay apart."""
        shift = np.cumsum([0, *(len(part.names) for part in parts)])
        return Pictures(
            np.concatenate([p.hashes for p in parts]) if parts else np.zeros((0, VARIANTS, 32), np.uint8),
            np.concatenate([p.video + s for p, s in zip(parts, shift, strict=False)] or [np.zeros(0, np.int64)]),
            np.concatenate([p.time_s for p in parts] or [np.zeros(0)]),
            tuple(name for p in parts for name in p.names),
            tuple(case for p in parts for case in p.cases),
            untimed=tuple(bool(flag) for p in parts for flag in np.broadcast_to(p.untimed, len(p.names))),
        )


def variants(images: Sequence[Image.Image]) -> U8:
    """uint8[n, V, 32]: every variant of the frames of one video, which share their surround; the whole frame first."""
    grey = [image.convert("L") for image in images]
    # The surround is found from colour pictures of the video's usual size: some frames of a set may differ.
    usual = [image for image in images if image.size == images[0].size]
    sample = usual[:: max(1, len(usual) // SAMPLES)]
    inner, *others = (_surround(sample), _surround(sample, brighter=True), _surround(sample, cut=BORDERS[-1]))
    boxes = [(box, border) for box in (WHOLE, inner) for border in BORDERS] + [(box, 0.0) for box in others]
    found = np.empty((len(images), VARIANTS, 32), np.uint8)
    for at, image in enumerate(grey):
        crops = [cells(image.crop(_inside(box, border, image.size))) for box, border in boxes]
        turned = [crops[crop][rows, columns] for rows, columns, chosen in TURNS for crop in chosen]
        found[at] = [differences(lumas) for lumas in turned]
    return found


def plain_variants(image: Image.Image) -> U8:
    """uint8[6, 32]: a picture whose surround is not looked for, with each border, and all of these mirrored."""
    grey = image.convert("L")
    crops = [cells(grey.crop(_inside(WHOLE, border, image.size))) for border in BORDERS]
    return np.stack([differences(lumas) for lumas in (*crops, *(lumas[:, ::-1] for lumas in crops))])


def _surround(images: Sequence[Image.Image], brighter: bool = False, cut: float = 0.0) -> Box:
    """What ingest would keep of these pictures of one size, as parts of it, were they brighter or cut on all sides."""
    outer = _inside(WHOLE, cut, images[0].size)
    changed = [image.crop(outer) for image in images]
    if brighter:
        changed = [image.point(lambda value: min(255, int(1.2 * value + 10))) for image in changed]
    content = find_content(changed).box
    left, top, width, height = content or (0, 0, *changed[0].size)
    w, h = images[0].size
    across, down = outer[0] + left, outer[1] + top
    return across / w, down / h, (across + width) / w, (down + height) / h


def _inside(box: Box, border: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box without a part of each of its sides, in pixels of a picture of this size."""
    left, top, right, bottom = (part * side for part, side in zip(box, (*size, *size), strict=True))
    wide, tall = border * (right - left), border * (bottom - top)
    return round(left + wide), round(top + tall), round(right - wide), round(bottom - tall)
