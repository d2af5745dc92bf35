"""Patch tokens of timm's vision transformers, and a pass that doesn't see some of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from trocar.errors import ConfigError
from trocar.ssl.blocks.packed_views import embedded, packed_tokens, packs


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
