"""The position table of a vision transformer at another size than its own: as timm resamples it, or as DINO does.

timm: bicubic with antialiasing, to the size that is wanted. DINO (`interpolate_pos_encoding`), and DINOv2 without
registers: bicubic without antialiasing, at a scale of (n + 0.1) / N for n of N patches, which shifts what is read by up
to a tenth of a new patch, more at the end than at the start. Weights that were trained with one give other features
with the other.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from trocar.errors import ConfigError

Resampling = Literal["antialiased", "dino"]
OFFSET = 0.1
POSITIONS = "positions"
"""Where an exported backbone's config.json says it."""
_OWN = ("_pos_embed", "set_input_size")


def resample_as_dino(table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 1) -> Tensor:
    """Positions [1, prefix + N, D] of `old` (rows, columns) of patches -> [1, prefix + n, D] of `new`; the first
    `prefix` stay as they are.
    """
    if old == new:
        return table
    first, patches = table[:, :prefix], table[:, prefix:]
    grid = patches.float().view(1, *old, -1).permute(0, 3, 1, 2)
    scale = ((new[0] + OFFSET) / old[0], (new[1] + OFFSET) / old[1])
    found = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat([first, found.flatten(2).transpose(1, 2).to(table.dtype)], 1)


def resampling_of(model: nn.Module) -> Resampling:
    """How a model's position table is resampled."""
    return "dino" if "_pos_embed" in vars(model) else "antialiased"


def set_resampling(model: nn.Module, how: Resampling) -> None:
    """Have the position table of `model` resampled like that from now on: for views of another size, and by
    `set_input_size`. A model without a table stays as it is.

    Raises ConfigError for `dino` and a model with a table that isn't timm's plain vision transformer.
    """
    for name in _OWN:
        vars(model).pop(name, None)
    if how == "antialiased" or getattr(model, "pos_embed", None) is None:
        return
    if type(model) is not VisionTransformer:
        raise ConfigError(
            f"positions are resampled as in DINO for timm's plain vision transformers (vit_*) alone, and this is a "
            f"{type(model).__name__}; use backbone.position_resampling=antialiased"
        )
    methods: tuple[Callable[..., Any], ...] = (_pos_embed, _set_input_size)
    for name, method in zip(_OWN, methods, strict=True):
        object.__setattr__(model, name, MethodType(method, model))


def _prefix(model: Any) -> int:
    return 0 if model.no_embed_class else int(model.num_prefix_tokens)


def _pos_embed(model: Any, x: Tensor) -> Tensor:
    """`VisionTransformer._pos_embed`: patches [b, H, W, D], or [b, N, D] of one size, -> tokens with positions."""
    grid = tuple(model.patch_embed.grid_size)
    if x.ndim == 3 or tuple(x.shape[1:3]) == grid:
        found: Tensor = VisionTransformer._pos_embed(model, x)
        return found
    table = resample_as_dino(model.pos_embed, grid, (x.shape[1], x.shape[2]), _prefix(model))
    tokens = x.flatten(1, 2)
    before = [token.expand(len(x), -1, -1) for token in (model.cls_token, model.reg_token) if token is not None]
    if model.no_embed_class:
        tokens = torch.cat([*before, tokens + table], 1)
    else:
        tokens = torch.cat([*before, tokens], 1) + table
    placed: Tensor = model.pos_drop(tokens)
    return placed


def _set_input_size(model: Any, img_size: Any = None, patch_size: Any = None) -> None:
    """`VisionTransformer.set_input_size`, with the table resampled from what it was."""
    table, before = model.pos_embed, tuple(model.patch_embed.grid_size)
    VisionTransformer.set_input_size(model, img_size=img_size, patch_size=patch_size)
    after = tuple(model.patch_embed.grid_size)
    with torch.no_grad():
        resampled = resample_as_dino(table, before, after, _prefix(model))
    model.pos_embed = nn.Parameter(resampled.contiguous(), requires_grad=table.requires_grad)
