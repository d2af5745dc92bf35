"""JPEG bytes and integer boxes -> uint8 crops, with torch on CPU. Decode once, crop many.

The decoder is libjpeg-turbo as TorchCodec brings it, for training and for evaluation from shards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchcodec.decoders import decode_jpeg as _decode_jpeg

from trocar.data.loading.batch import Crops
from trocar.data.loading.reader import MAX_PIXELS, BadContentError, sizes
from trocar.data.loading.steps import Steps, empty_crops
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.still import Jpeg
from trocar.data.views.recipe import Interpolation, ViewParams, ViewRecipe

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
        return cast(Tensor, _decode_jpeg(source, mode="RGB"))
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
