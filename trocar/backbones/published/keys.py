"""Key maps that several families share, as functions from timm's key to the published one."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from trocar.backbones.published.base import Source, State


def same(key: str) -> Source:
    """timm's own names."""
    return Source((key,))


def renamed(key: str, *rules: tuple[str, str]) -> str:
    """`key` after every (regular expression, replacement) of `rules`, in order."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def image_size(state: State, patch: int, prefix_tokens: int = 1) -> dict[str, Any]:
    """{"img_size": S} for a square position table `pos_embed` [1, prefix_tokens + n, D]; {} without one."""
    table = state.get("pos_embed")
    if table is None or table.ndim != 3:
        return {}
    side = math.isqrt(max(0, table.shape[1] - prefix_tokens))
    return {"img_size": side * patch} if side * side == table.shape[1] - prefix_tokens and side else {}


def without_class_position(table: Tensor) -> Tensor:
    """The position table [1, 1 + n, D] without the class token's entry."""
    return table[:, 1:]


def with_class_position(token: Tensor, table: Tensor) -> Tensor:
    """The class token [1, 1, D] plus its entry of the position table, which timm stores as one.

    Raises RuntimeError for shapes that only broadcasting would bring together.
    """
    if token.shape != table[:, :1].shape:
        raise RuntimeError(f"class token {list(token.shape)} beside a position table {list(table.shape)}")
    return token + table[:, :1]
