"""Step -> this rank's rows, parameters and frames, which both backends start from; and the crops of the torch backend:
JPEG bytes and integer boxes -> uint8 crops, on CPU. Decode once, crop many.

The decoder is libjpeg-turbo as TorchCodec brings it, for training and for evaluation from shards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import get_worker_info
from torchcodec.decoders import decode_jpeg as _decode_jpeg

from trocar.core.random import I64
from trocar.data.loading.batch import Crops
from trocar.data.loading.reader import MAX_PIXELS, BadContentError, BadRow, Read, Reader, sizes
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.still import Jpeg
from trocar.data.selection.neighbours import NeighbourRule
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import Interpolation, ViewParams, ViewPlan, ViewRecipe
from trocar.errors import ConfigError

Frame = TypeVar("Frame")
Open = Callable[[int, Jpeg], Frame]
"""(catalog row, JPEG) -> the frame as a backend wants it; raises BadContentError if it can't be decoded."""
Use = Callable[[int, list[Frame], ViewParams], None]
"""What to do with a sample: (index in this rank's slice, its F frames, parameters of the step).

Of the parameters only those of that sample are final: a later one may still get a stand-in.
"""
Ahead = Callable[[Reader, Iterable[int]], Read]
"""Reads the given rows before they are asked for; returns what to read with."""


@dataclass(frozen=True)
class Delivered:
    """What became of a step: `frames` int64[b, F] rows as delivered, `params` of b samples, rows found bad by slot."""

    step: int
    frames: I64
    params: ViewParams
    bad: list[BadRow]

    @property
    def rows(self) -> I64:
        """int64[b]: the anchors."""
        return self.frames[:, 0]


@dataclass(frozen=True)
class Steps:
    """One rank's share of every step. `neighbours` names the other frames of a sample that has more than its anchor."""

    plan: Plan
    views: ViewPlan
    reader: Reader
    rank: int = 0
    world: int = 1
    neighbours: NeighbourRule | None = None

    def __post_init__(self) -> None:
        if self.plan.batch % self.world:
            raise ConfigError(f"batch {self.plan.batch} does not divide by {self.world} ranks; change one of them")
        if self.recipe.frames > 1 and self.neighbours is None:
            raise ConfigError(
                f"views are cut from {self.recipe.frames - 1} neighbour frames, but this method draws none; set "
                f"method.name=augmented_distillation, or frame: 0 for all views"
            )

    @property
    def recipe(self) -> ViewRecipe:
        """The views of a sample."""
        return self.views.recipe

    @property
    def batch(self) -> int:
        """Samples b of this rank."""
        return self.plan.batch // self.world

    def deliver(self, step: int, open_frame: Open[Frame], use: Use[Frame], ahead: Ahead | None = None) -> Delivered:
        """Hand every sample of the step to `use`, in the order in which the anchors lie in the shards.

        A bad anchor is replaced by the plan's rule, and gets neighbours of its own; a bad neighbour by its anchor.
        With `ahead` the planned frames are read before the first is opened, which changes nothing that is delivered.
        """
        slots = np.arange(self.rank * self.batch, (self.rank + 1) * self.batch, dtype=np.int64)
        frames = self._frames(step, slots, self.plan.rows(step)[slots])
        behind = None
        if self.reader.asks_ahead:
            later = step + _stride()
            behind = self._frames(later, slots, self.plan.rows(later)[slots])
        params = self.views.params(step, slots, *sizes(self.reader.catalog, frames))
        found: dict[int, list[BadRow]] = {}
        order = self.reader.order(frames, behind)
        read = self.reader.read if ahead is None else ahead(self.reader, frames[order].ravel().tolist())
        for index in order:
            slot, planned = slots[index : index + 1], frames[index].tolist()
            rows, opened, found[index] = self._open(step, slot, planned, open_frame, read)
            if rows != planned:  # stand-ins get boxes of their own size
                frames[index] = rows
                params.assign(
                    index, self.views.params(step, slot, *sizes(self.reader.catalog, frames[index : index + 1]))
                )
            use(index, opened, params)
        return Delivered(step, frames, params, [bad for index in sorted(found) for bad in found[index]])

    def _frames(self, step: int, slots: I64, anchors: I64) -> I64:
        """int64[b, F] for anchors int64[b]."""
        if self.neighbours is None or self.recipe.frames == 1:
            return anchors[:, None]
        drawn = self.neighbours.draw(step, slots, anchors, self.recipe.frames - 1)
        return np.concatenate([anchors[:, None], drawn], axis=1)

    def _open(
        self, step: int, slot: I64, planned: list[int], open_frame: Open[Frame], read: Read
    ) -> tuple[list[int], list[Frame], list[BadRow]]:
        """The F rows that stand for those planned for the slot int64[1], each opened once, and the bad ones."""
        opened: dict[int, Frame] = {}

        def keep(row: int, jpeg: Jpeg) -> None:
            opened[row] = open_frame(row, jpeg)

        anchor, bad = self.reader.deliver(self.plan, step, int(slot[0]), planned[0], keep, read)
        rows = planned
        if anchor != planned[0]:
            rows = self._frames(step, slot, np.array([anchor], np.int64))[0].tolist()
        for row in dict.fromkeys(rows[1:]):
            if row not in opened:
                self.reader.take(row, keep, bad, read)
        rows = [row if row in opened else anchor for row in rows]
        return rows, [opened[row] for row in rows], bad


def _stride() -> int:
    """How many steps further the next one of this process is: loader workers take turns."""
    worker = get_worker_info()
    return 1 if worker is None else worker.num_workers


def empty_crops(recipe: ViewRecipe, batch: int) -> dict[str, Tensor]:
    """Room for the crops of `batch` samples: {group: uint8[batch, n, 3, S, S]}."""
    return {
        name: torch.empty((batch, group.count, 3, group.size, group.size), dtype=torch.uint8)
        for name, group in recipe.groups.items()
    }


_WHERE = re.compile(r"^\S+, \S+:\d+, ")  # the function and line of TorchCodec that an error begins with


def decode_jpeg(jpeg: Jpeg) -> Tensor:
    """JPEG -> uint8[3, height, width] in RGB, channels last in memory: chroma smoothly upsampled, as it is shown.

    Other threads run meanwhile. Raises RejectError for what does not decode to its end; noise inside of the image data
    that libjpeg paints over is none (`media.still` finds markers where there can be none). An EXIF orientation is
    applied, but frames in shards have none (`ingest.framing.is_canonical`).
    """
    if not jpeg:
        raise RejectError("empty file", "0 bytes")
    try:
        source = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        return cast("Tensor", _decode_jpeg(source, mode="RGB"))
    except RuntimeError as error:
        raise RejectError("undecodable image", _WHERE.sub("", str(error).splitlines()[0])) from None


def decode(jpeg: Jpeg, width: int, height: int) -> Tensor:
    """JPEG -> uint8[3, height, width] in RGB, channels last in memory.

    Raises BadContentError if it doesn't decode or isn't of the catalog's size.
    """
    if width * height > MAX_PIXELS:
        raise BadContentError(f"{width}x{height} is more than {MAX_PIXELS} pixels")
    try:
        image = decode_jpeg(jpeg)
    except RejectError as error:
        raise BadContentError(f"does not decode: {error.detail}") from None
    if tuple(image.shape) != (3, height, width):
        raise BadContentError(f"is {image.shape[-1]}x{image.shape[-2]}, the catalog says {width}x{height}")
    return image


def crop_resize(
    image: Tensor,
    box: Sequence[int],
    size: int | tuple[int, int],
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """uint8[3, H, W] and (top, left, height, width) -> uint8[3, size, size], or of (height, width), antialiased."""
    top, left, height, width = box
    region = image[:, top : top + height, left : left + width]
    shape = (size, size) if isinstance(size, int) else size
    if (height, width) == shape:
        return region
    out: Tensor = F.interpolate(region[None], size=shape, mode=interpolation, antialias=True)[0]
    return out


def cut(frames: list[Tensor], params: ViewParams, recipe: ViewRecipe, into: dict[str, Tensor], index: int) -> None:
    """Cut all views of a sample of F frames into place `index` of the crops; `params` of that sample alone (b = 1)."""
    for (name, which), group in zip(recipe.slices().items(), recipe.groups.values(), strict=True):
        views = zip(params.frame[which].tolist(), params.boxes[0, which].tolist(), strict=True)
        for view, (frame, box) in enumerate(views):
            into[name][index, view] = crop_resize(frames[frame], box, group.size, group.interpolation)


def torch_crops(steps: Steps, step: int) -> Crops:
    """The crops of one step, decoded in this process."""
    crops = empty_crops(steps.recipe, steps.batch)

    def use(index: int, frames: list[Tensor], params: ViewParams) -> None:
        cut(frames, params.samples(slice(index, index + 1)), steps.recipe, crops, index)

    done = steps.deliver(step, partial(decode_row, steps), use)
    return Crops(step, done.frames, done.params, crops, done.bad)


def decode_row(steps: Steps, row: int, jpeg: Jpeg) -> Tensor:
    """`decode` of a catalog row: uint8[3, height, width]. Raises BadContentError."""
    (width,), (height,) = sizes(steps.reader.catalog, np.array([row]))
    return decode(jpeg, int(width), int(height))
