"""Key maps of vision transformers as DINO, MAE, MoCo v3, DINOv2 and DINOv3 store them."""

from __future__ import annotations

import re

from trocar.backbones.published.base import Source
from trocar.backbones.published.keys import renamed, with_class_position, without_class_position


def swiglu(key: str) -> Source:
    """timm key -> that of DINOv2's ViT-g, whose gated feed-forward layers have other names."""
    return Source((renamed(key, (r"\.mlp\.fc1\.", ".mlp.w12."), (r"\.mlp\.fc2\.", ".mlp.w3.")),))


def with_registers(key: str) -> Source:
    """DINOv2 with register tokens: timm adds the class token's position to the token and keeps no entry for it."""
    special = {
        "cls_token": Source(("cls_token", "pos_embed"), with_class_position),
        "pos_embed": Source(("pos_embed",), without_class_position),
        "reg_token": Source(("register_tokens",)),
    }
    return special.get(key) or Source((key,))


def dinov3(key: str) -> Source:
    """timm's Eva keys -> DINOv3's."""
    return Source((renamed(key, (r"\.gamma_(\d)$", r".ls\1.gamma"), (r"^reg_token$", "storage_tokens")),))


def unchunked(key: str) -> str:
    """`blocks.2.7.norm1` -> `blocks.7.norm1`: training checkpoints of DINOv2 keep blocks in chunks."""
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)
