"""The given backbone itself as an encoder: feature maps from timm's `forward_intermediates`.

segmentation_models_pytorch builds its encoders anew by name and has none for most plain vision transformers; here the
module that was loaded is the one that computes, so there is no second set of weights that could stay random.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from trocar.backbones.preprocess import position_table_size
from trocar.errors import ConfigError

STRIDES = (4, 8, 16, 32)
"""Strides of the four maps that every decoder but the linear one takes, in pixels of the input."""


@dataclass(frozen=True)
class MapLayout:
    """Where a backbone's feature maps are.

    `indices` are those of `forward_intermediates`, coarsest last. `patch` is the patch size of a plain transformer,
    whose maps all have that stride; None for a hierarchy, whose maps have the strides 4, 8, 16 and 32.
    """

    indices: tuple[int, ...]
    patch: int | None

    @property
    def scale(self) -> float:
        """What a plain transformer's token grid is enlarged by for the finest of four maps: a power of two.

        4 for patches of 14 and 16 pixels, so that patch 14 has strides 3.5, 7, 14 and 28.
        """
        assert self.patch is not None
        return float(2.0 ** round(math.log2(self.patch / STRIDES[0])))

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this, so that each map is exactly half as large as the one before."""
        return STRIDES[-1] if self.patch is None else math.ceil(self.patch * max(1.0, 8 / self.scale))


def layout(backbone: nn.Module) -> MapLayout:
    """Read from a timm model's `feature_info`. Raises ConfigError for a model whose maps fit no decoder."""
    name = type(backbone).__name__
    info = getattr(backbone, "feature_info", None)
    if not hasattr(backbone, "forward_intermediates") or not info:
        raise ConfigError(
            f"{name} gives no feature maps (timm's forward_intermediates); take a ViT, ResNet or ConvNeXt"
        )
    strides = [entry["reduction"] for entry in info]
    if len(set(strides)) == 1 and len(strides) >= len(STRIDES):
        quarters = [round((k + 1) * len(strides) / 4) - 1 for k in range(4)]
        return MapLayout(tuple(quarters), int(strides[0]))
    last = {stride: index for index, stride in enumerate(strides)}
    if not set(STRIDES) <= last.keys():
        found = ", ".join(str(s) for s in sorted(last))
        raise ConfigError(
            f"{name} has feature maps at strides {found}; the decoders need 4, 8, 16 and 32, or a transformer of one"
            " stride (ViT, DINOv2, DINOv3, BEiT, EVA)"
        )
    return MapLayout(tuple(last[s] for s in STRIDES), None)


class SegmentationEncoder(nn.Module):
    """Feature maps of `backbone`.

    `last` asks for the coarsest map only. `norm` applies a plain transformer's final norm to its maps. `freeze` keeps
    the backbone in eval mode, whatever `.train()` says, and computes it without gradients.
    """

    def __init__(self, backbone: nn.Module, where: MapLayout, *, last: bool, norm: bool, freeze: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.indices = list(where.indices[-1:] if last else where.indices)
        self.freeze = freeze
        parameters = inspect.signature(backbone.forward_intermediates).parameters  # type: ignore[arg-type]
        self.prefixed = where.patch is not None and "return_prefix_tokens" in parameters
        self._norm = norm and where.patch is not None
        if freeze:
            self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SegmentationEncoder:
        """As torch's, but for a frozen backbone: the statistics of its batch norms must not move."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Normalised images [b, 3, H, W] -> maps [b, C, h, w], finest first, and each one's prefix tokens [b, P, C].

        None where the backbone has no class or register tokens.
        """
        arguments = {"return_prefix_tokens": True} if self.prefixed else {}
        with torch.no_grad() if self.freeze else nullcontext():
            found = self.backbone.forward_intermediates(  # type: ignore[operator]
                images, indices=self.indices, norm=self._norm, intermediates_only=True, output_fmt="NCHW", **arguments
            )
        pairs = [item if isinstance(item, (tuple, list)) else (item, None) for item in found]
        return [maps for maps, _ in pairs], [tokens for _, tokens in pairs]


def fit_rectangle(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Make `backbone` take images of `size` (height, width): its position table, if it has one, is resampled in place.

    Raises ConfigError for a model with a fixed size and no way to resample.
    """
    now = position_table_size(backbone)
    if now is None or now == size or getattr(backbone, "dynamic_img_size", False):
        return
    if not hasattr(backbone, "set_input_size"):
        return  # a table may well not be used; `check` runs the model
    try:
        backbone.set_input_size(img_size=size)  # type: ignore[operator]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"this backbone cannot take {size[0]} x {size[1]} px images: {error}") from None


def check(encoder: SegmentationEncoder, size: tuple[int, int]) -> tuple[list[int], list[bool]]:
    """Channels of the maps, and whether each has prefix tokens, from one black image through the encoder.

    Raises ConfigError where the backbone cannot take `size` (Hiera and MaxViT have a fixed one), or where its maps
    are not of the sizes that its `feature_info` says.
    """
    before = encoder.training
    try:
        with torch.no_grad():
            maps, tokens = encoder.eval()(next(encoder.backbone.parameters()).new_zeros(1, 3, *size))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"this backbone cannot take {size[0]} x {size[1]} px images: {reason[0]}") from None
    finally:
        encoder.train(before)
    _require_halves([(m.shape[-2], m.shape[-1]) for m in maps])
    return [m.shape[1] for m in maps], [t is not None for t in tokens]


def _require_halves(sizes: Sequence[tuple[int, int]]) -> None:
    for fine, coarse in pairwise(sizes):
        if fine != coarse and fine != (2 * coarse[0], 2 * coarse[1]):
            raise ConfigError(
                f"this backbone's feature maps have sizes {list(sizes)}, each must be half the one before"
            )
