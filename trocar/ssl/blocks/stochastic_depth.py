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
