"""Views of several sizes in one pass through a vision transformer, as DINOv2 and DINOv3 do.

Each sample's tokens of each size lie behind one another in one matrix. Norms and linear layers, which know no sequence,
see all of them at once; attention sees the samples of one size after the other, so no token meets another sample's. A
multi-crop step then starts half as many, larger operations on a device. What is computed is the same up to rounding;
stochastic depth draws its samples in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from trocar.errors import ConfigError
from trocar.ssl.blocks.stochastic_depth import add_branch, plain_blocks, skips

Pieces = list[Tensor]
"""Tokens [n, N, D] by size of view: n samples of N tokens."""


def pack_views(model: nn.Module) -> None:
    """Have a timm vision transformer take views of several sizes at once, by `packed_features`, from now on.

    A pass of one tensor stays as it is, and so do weights. Raises ConfigError for other networks.
    """
    blocks = plain_blocks(model)
    if type(model) is not VisionTransformer or any(type(block.attn) is not Attention for block in blocks):
        raise ConfigError(
            f"backbone.pack_views: only timm's plain vision transformers (vit_*, deit*, dinov2_*) can pack views, and "
            f"this is a {type(model).__name__}; set it to false"
        )
    for block in blocks:
        object.__setattr__(block, "single", block.forward)
        object.__setattr__(block, "forward", MethodType(_forward, block))
    object.__setattr__(model, "packs_views", True)


def packs(model: object) -> bool:
    """Whether `pack_views` has prepared it."""
    return bool(getattr(model, "packs_views", False))


def packed_features(model: Any, views: Pieces) -> Pieces:
    """What `model` gives for each tensor of views [n, 3, S, S]: features [n, D]."""
    tokens = packed_tokens(model, [embedded(model, x) for x in views])
    return [model.forward_head(x, pre_logits=True) for x in tokens]


def embedded(model: Any, views: Tensor) -> Tensor:
    """Tokens [n, N, D] of views [n, 3, S, S], as they enter the first block."""
    x: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(views))))
    return x


def packed_tokens(model: Any, pieces: Pieces) -> Pieces:
    """The same tokens behind the last block and norm."""
    for block in model.blocks:
        if model.grad_checkpointing and torch.is_grad_enabled():
            pieces = checkpoint(block, pieces, use_reentrant=False)
        else:
            pieces = block(pieces)
    return [model.norm(x) for x in pieces]


def _forward(block: Any, x: Tensor | Pieces, **kwargs: Any) -> Tensor | Pieces:
    """`Block.forward` that also takes a list."""
    if isinstance(x, Tensor):
        single: Tensor = block.single(x, **kwargs)
        return single
    p = getattr(block.drop_path1, "drop_prob", 0.0)
    for branch, drop in ((_attention, block.drop_path1), (_mlp, block.drop_path2)):
        if block.training and skips(block):
            x = add_branch(x, partial(branch, block), p)
        else:
            x = [a + drop(b) for a, b in zip(x, branch(block, x), strict=True)]
    return x


def _attention(block: Any, pieces: Pieces) -> Pieces:
    attention = block.attn
    dropout = attention.attn_drop.p if attention.training else 0.0

    def of_all(packed: Tensor) -> Tensor:
        normed = block.norm1(packed)
        qkv = attention.qkv(normed)
        parts = torch.split(qkv, [x.shape[0] * x.shape[1] for x in pieces])
        seen = torch.cat([of_one_size(part, x) for part, x in zip(parts, pieces, strict=True)])
        seen = attention.norm(seen)
        if getattr(attention, "gate", None) is not None:
            seen = seen * attention.gate(normed).sigmoid()
        out: Tensor = block.ls1(attention.proj_drop(attention.proj(seen)))
        return out

    def of_one_size(qkv: Tensor, like: Tensor) -> Tensor:
        samples, length = like.shape[:2]
        q, k, v = qkv.view(samples, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = attention.q_norm(q), attention.k_norm(k)
        heads = scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return heads.transpose(1, 2).reshape(samples * length, -1)

    return _together(of_all, pieces)


def _mlp(block: Any, pieces: Pieces) -> Pieces:
    return _together(lambda packed: block.ls2(block.mlp(block.norm2(packed))), pieces)


def _together(layers: Callable[[Tensor], Tensor], pieces: Pieces) -> Pieces:
    """Layers that know no sequence, on the tokens of all sizes as one matrix [tokens, D]."""
    out = layers(torch.cat([x.flatten(0, 1) for x in pieces]))
    parts = torch.split(out, [x.shape[0] * x.shape[1] for x in pieces])
    return [part.view(*x.shape[:2], -1) for part, x in zip(parts, pieces, strict=True)]
