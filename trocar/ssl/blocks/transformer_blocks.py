"""Plain vision transformers' blocks that skip what stochastic depth drops, and take views of several sizes at once.

timm computes a residual branch for all samples and multiplies it by 0 for those that it drops, each with probability p.
Here the branch sees round((1 - p) b) of b samples, drawn anew for each branch, and what it adds is multiplied by b over
their number: the same in expectation, with a number of samples that is known beforehand, so that nothing waits for the
device and a compiled block has one shape. Branches of p up to 0.1 stay as they are, as in DINOv2: below that, gathering
the samples costs what it saves.

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
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from trocar.errors import ConfigError

MASKED_UP_TO = 0.1


def skip_dropped(model: nn.Module) -> None:
    """Have the blocks of a timm vision transformer skip what their stochastic depth drops, from now on.

    What is drawn follows from torch's generator of the device. Weights, features in eval mode, and a model without
    stochastic depth stay as they are. Raises ConfigError for other blocks.
    """
    blocks = plain_blocks(model)
    if not blocks:
        raise ConfigError(
            f"backbone.drop_path_mode: only timm's plain vision transformers (vit_*, deit*, dinov2_*) can skip "
            f"samples, and this is a {type(model).__name__}; use mask"
        )
    for block in blocks:
        object.__setattr__(block, "forward", MethodType(_forward, block))
        object.__setattr__(block, "skips_dropped", True)


def plain_blocks(model: nn.Module) -> list[Any]:
    """The blocks of a plain vision transformer of timm; none if only one of them is of another kind."""
    blocks = list(getattr(model, "blocks", ()))
    return blocks if all(type(block) is Block for block in blocks) else []


def skips(block: Any) -> bool:
    """Whether a block leaves out what it drops, in training."""
    p = getattr(block.drop_path1, "drop_prob", 0.0)
    return bool(getattr(block, "skips_dropped", False)) and round(p, 6) > MASKED_UP_TO  # rates are rounded to float32


def kept(samples: int, p: float) -> int:
    """How many of a batch's samples a branch with drop probability `p` sees; at least one."""
    return max(1, round((1 - p) * samples))


def add_branch(pieces: list[Tensor], branch: Callable[[list[Tensor]], list[Tensor]], p: float) -> list[Tensor]:
    """x + branch(x) in expectation, for tokens [b, N, D] of each size of view.

    The branch is computed for `kept(b, p)` samples of each size.
    """
    chosen = [torch.randperm(len(x), device=x.device)[: kept(len(x), p)] for x in pieces]
    # index_select, because the backward pass of plain indexing sorts. Each sample is chosen once, so no sum of
    # gradients depends on an order.
    added = branch([x.index_select(0, rows) for x, rows in zip(pieces, chosen, strict=True)])
    return [
        x.index_add(0, rows, more.to(x.dtype), alpha=len(x) / len(rows))
        for x, rows, more in zip(pieces, chosen, added, strict=True)
    ]


def _forward(block: Any, x: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    """`Block.forward`; `attn_mask` may differ by sample, so with one nothing is skipped."""
    if not block.training or not skips(block) or attn_mask is not None:
        whole: Tensor = Block.forward(block, x, attn_mask=attn_mask, **kwargs)
        return whole
    p = block.drop_path1.drop_prob
    seen = add_branch([x], lambda some: [block.ls1(block.attn(block.norm1(some[0]), **kwargs))], p)
    return add_branch(seen, lambda some: [block.ls2(block.mlp(block.norm2(some[0])))], p)[0]


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
        object.__setattr__(block, "forward", MethodType(_packed_forward, block))
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


def _packed_forward(block: Any, x: Tensor | Pieces, **kwargs: Any) -> Tensor | Pieces:
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
