"""Patch tokens of timm's vision transformers, and a pass that doesn't see some of them.

Which patches the student doesn't see: blocks, as BEiT and DINOv2 draw them, from a number per view.

After `MaskingGenerator` and `collate_data_and_cast` of DINOv2's reference code (arXiv 2304.07193). One deliberate
difference: there exactly half of a batch is masked, with ratios spread evenly over the batch. Here each view is masked
with that probability and draws a ratio of its own, so that its mask depends on its seed and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from trocar.core.config import Config
from trocar.core.random import U32, make_key, uniform, words
from trocar.errors import ConfigError
from trocar.ssl.blocks.transformer_blocks import embedded, packed_tokens, packs


class Tokens:
    """A vision transformer read by its tokens.

    `network` is a timm model with a `patch_embed` (timm's `PatchEmbed`), at least one prefix token and
    `forward_features`: all `vit_*`, `deit*`, `beit*` and `eva*` models with a class token, with or without registers.
    Not a module: it has no state, and whoever uses it owns the network.

    Raises ConfigError for any other network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network
        patch_embed = getattr(network, "patch_embed", None)
        if not isinstance(patch_embed, PatchEmbed) or not getattr(network, "num_prefix_tokens", 0):
            raise ConfigError(
                f"backbone: masked patches need a vision transformer with a class token, and {type(network).__name__} "
                f"is none; use vit_small_patch16_224, vit_base_patch14_reg4_dinov2 or vit_small_patch16_dinov3"
            )
        self.patch_embed = patch_embed

    @property
    def width(self) -> int:
        """D of a token."""
        return int(self.network.num_features)

    def grid(self, size: int) -> tuple[int, int]:
        """Rows and columns of patches of a view of `size` pixels."""
        height, width = self.patch_embed.dynamic_feat_size((size, size))
        return height, width

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Views [n, 3, S, S] -> what the backbone gives as their features [n, D], and patch tokens [n, N, D].

        The features are the class token but for models that timm builds with average pooling, such as DINOv3's.
        """
        tokens = self.network.forward_features(x)
        features = self.network.forward_head(tokens, pre_logits=True)
        return features, tokens[:, self.network.num_prefix_tokens :]

    def of_groups(self, groups: list[Tensor], mask: Tensor, token: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features [n, D] of each group of views [n, 3, S, S], and patch tokens [n, N, D] of the first.

        Of the first, the patches in `mask` are hidden behind `token`. A network that packs views takes all groups in
        one pass.
        """
        first, rest = groups[0], groups[1:]
        if packs(self.network):
            with self.masked(mask, token):
                pieces = [embedded(self.network, first)]
            tokens = packed_tokens(self.network, [*pieces, *(embedded(self.network, x) for x in rest)])
            features = [self.network.forward_head(x, pre_logits=True) for x in tokens]
            return features, tokens[0][:, self.network.num_prefix_tokens :]
        with self.masked(mask, token):
            seen, patches = self(first)
        return [seen, *(self.network(x) for x in rest)], patches

    @contextmanager
    def masked(self, mask: Tensor, token: Tensor) -> Iterator[None]:
        """Within, `token` [D] stands in for the embeddings of the patches in `mask` bool[n, N], before positions."""

        def replace(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
            # [n, N, D], or [n, H, W, D] of a model for views of several sizes
            return torch.where(mask.view(*embedded.shape[:-1], 1), token.to(embedded.dtype), embedded)

        handle = self.patch_embed.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


_KEY = make_key("patch mask")
_FAILURES = 10  # tries of a block before the mask stays as it is
_TRIES = 64  # in all; 4000 masks of 14 x 14 and of 37 x 37 patches needed 37 at most


class Masking(Config):
    """Block masks; what is not said keeps DINOv2's value."""

    probability: float = Field(default=0.5, ge=0, le=1, description="probability that a view is masked at all, 0 to 1")
    ratio: tuple[float, float] = Field(
        default=(0.1, 0.5), description="share of its patches that are masked, uniform between these"
    )
    smallest: int = Field(default=4, ge=1, description="patches of a block at least, before overlaps")
    aspect: float = Field(
        default=0.3, gt=0, le=1, description="height to width of a block is between this and 1 / this"
    )

    @model_validator(mode="after")
    def _ranges(self) -> Masking:
        if not 0 <= self.ratio[0] <= self.ratio[1] <= 1:
            raise ValueError(f"ratio {self.ratio}: expected 0 <= low <= high <= 1")
        return self


def block_masks(seeds: U32, height: int, width: int, masking: Masking) -> npt.NDArray[np.bool_]:
    """Masks bool[..., height, width] of grids of patches, a pure function of each of `seeds` uint32[...].

    On the host: the number of masked patches is then known without waiting for the device.
    """
    flat = seeds.reshape(-1)
    first = uniform(words(_KEY, 2, flat, 0))
    shares = masking.ratio[0] + first[:, 1] * (masking.ratio[1] - masking.ratio[0])
    chosen = np.flatnonzero(first[:, 0] < masking.probability)
    targets = (height * width * shares[chosen]).astype(int).tolist()
    draws = uniform(words(_KEY, 4 * _TRIES, flat[chosen], 1)).reshape(-1, _TRIES, 4)
    draws[..., 1] = masking.aspect ** (1 - 2 * draws[..., 1])
    length = -(-height * width // 8)
    packed = np.zeros((len(flat), length), dtype=np.uint8)
    columns = [sum(1 << (width * y) for y in range(h)) for h in range(height)]
    for row, target, tries in zip(chosen, targets, draws, strict=True):
        bits = _blocks(target, tries.tolist(), columns, width, masking.smallest)
        packed[row] = np.frombuffer(bits.to_bytes(length, "little"), dtype=np.uint8)
    masks = np.unpackbits(packed, axis=1, count=height * width, bitorder="little")
    return masks.astype(np.bool_).reshape(*seeds.shape, height, width)


def _blocks(target: int, tries: Iterable[Sequence[float]], columns: Sequence[int], width: int, smallest: int) -> int:
    """A mask of at most `target` patches; patch (y, x) is bit y width + x. A try is (area, aspect, y, x).

    Integers as bit sets, `columns` of each height: an array operation costs more than the rest of a try.
    """
    height, room = len(columns), target
    mask = failures = 0
    for area, aspect, y, x in tries:
        if room == 0 or failures == _FAILURES:
            break
        size = smallest + area * (room - smallest)
        h, w = round(sqrt(size * aspect)), round(sqrt(size / aspect))
        new = 0
        if h < height and w < width:
            top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
            block = (((1 << w) - 1) * columns[h]) << (top * width + left)
            new = (block & ~mask).bit_count()
        if 0 < new <= room:
            mask, room, failures = mask | block, room - new, 0
        else:
            failures += 1
    return mask


@dataclass(frozen=True)
class MaskedPatches:
    """The masked patches of n views with N patches each.

    `mask` bool[n, N]; `index` int64[m], where the m masked patches stand among all n N; `weight` float32[m], of each
    patch in a mean over its view's masked patches: 1 / their number.
    """

    mask: Tensor
    index: Tensor
    weight: Tensor

    @staticmethod
    def of(masks: npt.NDArray[np.bool_], device: torch.device) -> MaskedPatches:
        """From the host's bool[n, H, W]; m is known there, and nothing waits for the device."""
        flat = masks.reshape(len(masks), -1)
        counts = flat.sum(1)
        weight = np.repeat(1 / np.maximum(counts, 1), counts).astype(np.float32)
        return MaskedPatches(*(_moved(array, device) for array in (flat, np.flatnonzero(flat), weight)))

    def select(self, patches: Tensor) -> Tensor:
        """[n, N, D] -> [m, D]."""
        return patches.flatten(0, 1).index_select(0, self.index)


def _moved(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    values = torch.from_numpy(array)
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
