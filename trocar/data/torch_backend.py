"""JPEG bytes and integer boxes -> uint8 crops, with torchvision on CPU. Decode once, crop many."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from trocar.data.reader import BadContentError
from trocar.data.views import ViewParams, ViewRecipe

MAX_PIXELS = 64_000_000  # of a frame: a larger one is a decompression bomb, not a surgical video


# torchvision announces that its decoders will move to TorchCodec; until that is everywhere, they are the fastest here.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities", DeprecationWarning)


def decode(jpeg: bytes, width: int, height: int) -> Tensor:
    """JPEG -> uint8[3, height, width] in RGB, channels last in memory.

    Raises BadContentError if it doesn't decode or isn't of the catalog's size.
    """
    if width * height > MAX_PIXELS:
        raise BadContentError(f"{width}x{height} is more than {MAX_PIXELS} pixels")
    try:
        image: Tensor = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise BadContentError(f"does not decode: {str(error).splitlines()[0]}") from None
    if tuple(image.shape) != (3, height, width):
        raise BadContentError(f"is {image.shape[-1]}x{image.shape[-2]}, the catalog says {width}x{height}")
    return image


def crop_resize(image: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """uint8[3, H, W] and (top, left, height, width) -> uint8[3, size, size]; bicubic, antialiased."""
    top, left, height, width = box
    region = image[:, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return region
    out: Tensor = F.interpolate(region[None], size=(size, size), mode="bicubic", antialias=True)[0]
    return out


class SampleBuffer:
    """uint8[b, n, 3, S, S] per group, filled one sample at a time."""

    def __init__(self, recipe: ViewRecipe, batch: int) -> None:
        self.recipe = recipe
        self.crops = {
            name: torch.empty((batch, group.count, 3, group.size, group.size), dtype=torch.uint8)
            for name, group in recipe.groups.items()
        }

    def fill(self, index: int, image: Tensor, params: ViewParams) -> None:
        """Cut all views of one sample; `params` of that sample alone (b = 1)."""
        for (name, which), group in zip(self.recipe.slices().items(), self.recipe.groups.values(), strict=True):
            for view, box in enumerate(params.boxes[0, which].tolist()):
                self.crops[name][index, view] = crop_resize(image, box, group.size)
