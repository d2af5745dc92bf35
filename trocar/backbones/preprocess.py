"""What a backbone expects of its input: size, mean and standard deviation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from trocar.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Input of a backbone.

    `size` is (height, width) in pixels; `mean` and `std` are per RGB channel on the 0..1 scale;
    `interpolation` is the name timm uses (`bicubic`, `bilinear`); `fixed_size` is true for models that take
    no other size without resampling their position table.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    fixed_size: bool = False

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] (0..255) -> float32 of the same shape, `(x / 255 - mean) / std`."""
        scale, shift = in_levels(self.std, images.device), in_levels(self.mean, images.device)
        return (images.float() - shift).div_(scale)  # one pass through memory less than a new tensor


@lru_cache(maxsize=64)
def in_levels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Values per channel on the 0..1 scale as float32 [3, 1, 1] on the 0..255 scale. Not to be written to.

    Made once for a device: a copy from ordinary host memory waits for all that is queued on a GPU.
    """
    with torch.inference_mode(False):  # what is made inside could not be used in a training later
        return torch.tensor(values, device=device).mul(255.0).view(3, 1, 1)


def describe_backbone(model: nn.Module) -> Preprocessing:
    """The preprocessing of a timm model: its `pretrained_cfg`, and the size its position table has now."""
    config: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    fixed = bool(config.get("fixed_input_size", False)) and not getattr(model, "dynamic_img_size", False)
    _, height, width = config.get("input_size") or (3, 224, 224)
    return Preprocessing(
        size=position_table_size(model) or (int(height), int(width)),
        mean=_triple(config.get("mean") or IMAGENET_MEAN),
        std=_triple(config.get("std") or IMAGENET_STD),
        interpolation=str(config.get("interpolation") or "bicubic"),
        fixed_size=fixed,
    )


def fit_input_size(model: nn.Module, size: int) -> nn.Module:
    """Make `model` take square images of `size` pixels; convolutional models are returned as they are.

    Models with a position table have it resampled by timm's own `set_input_size`. Raises ConfigError if this
    model cannot take the size (not a multiple of its patch, or no way to resample).
    """
    now = describe_backbone(model)
    if not now.fixed_size or now.size == (size, size):
        return model
    if not hasattr(model, "set_input_size"):
        raise ConfigError(f"this backbone takes {now.size[0]} px images only; ask for that size instead of {size}")
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and (size % patch[0] or size % patch[1]):  # timm would drop the pixels that are left over
        raise ConfigError(f"this backbone cannot take {size} px images: its patches are of {patch[0]} x {patch[1]} px")
    resample: Callable[..., None] = model.set_input_size  # type: ignore[assignment]
    try:
        resample(img_size=(size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"this backbone cannot take {size} px images: {error}") from None
    return model


def position_table_size(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) in pixels the patch embedding was built for; None for models without one."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return (int(size[0]), int(size[1])) if size is not None else None


@torch.no_grad()
def feature_width(backbone: nn.Module, name: str, sizes: Sequence[int]) -> int:
    """Width D of the pooled features [n, D], found by trying a view of each size; the mode is left as it was.

    Raises ConfigError if a size does not fit, or if what comes out is no [n, D] of one D.
    """
    was_training = backbone.training
    like = next(backbone.parameters())
    backbone.eval()
    try:
        shapes = {tuple(backbone(like.new_zeros(1, 3, size, size)).shape) for size in dict.fromkeys(sizes)}
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(f"backbone {name!r} does not take views of {list(sizes)} pixels: {error}") from None
    finally:
        backbone.train(was_training)
    shape = shapes.pop()
    if shapes or len(shape) != 2:
        raise ConfigError(
            f"backbone {name!r} gives {list(shape)} for a picture, not pooled features [1, D] of one width D: with "
            "num_classes=0 its forward must pool"
        )
    return int(shape[1])


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue
