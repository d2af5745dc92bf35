"""Stochastic depth that leaves dropped samples out of the computation, as DINOv2 does (arXiv 2304.07193, section 5).

timm computes a residual branch for all samples and multiplies it by 0 for those that it drops, each with probability p.
Here the branch sees round((1 - p) b) of b samples, drawn anew for each branch, and what it adds is multiplied by b over
their number: the same in expectation, with a number of samples that is known beforehand, so that nothing waits for the
device and a compiled block has one shape. Branches of p up to 0.1 stay as they are, as in DINOv2: below that, gathering
the samples costs what it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from trocar.errors import ConfigError

MASKED_UP_TO = 0.1


def skip_dropped(model: nn.Module) -> None:
    """Have the blocks of a timm vision transformer skip what their stochastic depth drops, from now on.

    What is drawn follows from torch's generator of the device. Weights, features in eval mode, and a model without
    stochastic depth stay as they are. Raises ConfigError for other blocks.
    """
    blocks = [block for block in getattr(model, "blocks", ()) if type(block) is Block]
    if not blocks or len(blocks) != len(model.blocks):  # type: ignore[arg-type]
        raise ConfigError(
            f"backbone.drop_path_mode: only timm's plain vision transformers (vit_*, deit*, dinov2_*) can skip "
            f"samples, and this is a {type(model).__name__}; use mask"
        )
    for block in blocks:
        object.__setattr__(block, "forward", MethodType(_forward, block))


def kept(samples: int, p: float) -> int:
    """How many of a batch's samples a branch with drop probability `p` sees; at least one."""
    return max(1, round((1 - p) * samples))


def add_branch(x: Tensor, branch: Callable[[Tensor], Tensor], p: float) -> Tensor:
    """x + branch(x) in expectation, for tokens [b, N, D], with the branch computed for `kept(b, p)` samples."""
    count = kept(len(x), p)
    chosen = torch.randperm(len(x), device=x.device)[:count]
    # index_select, because the backward pass of plain indexing sorts. Each sample is chosen once, so no sum of
    # gradients depends on an order.
    added = branch(x.index_select(0, chosen))
    return x.index_add(0, chosen, added.to(x.dtype), alpha=len(x) / count)


def _forward(block: Any, x: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    """`Block.forward`; `attn_mask` may differ by sample, so with one nothing is skipped."""
    p = getattr(block.drop_path1, "drop_prob", 0.0)
    if not block.training or round(p, 6) <= MASKED_UP_TO or attn_mask is not None:  # rates are rounded to float32
        whole: Tensor = Block.forward(block, x, attn_mask=attn_mask, **kwargs)
        return whole
    x = add_branch(x, lambda some: block.ls1(block.attn(block.norm1(some), **kwargs)), p)
    return add_branch(x, lambda some: block.ls2(block.mlp(block.norm2(some))), p)
