"""Architectures of published surgical weights that timm has under no name of its own, registered with timm.

This file needs nothing but timm and torch: `trocar export` puts a copy of it beside weights that need it, as
`architectures.py`, and `import architectures` there makes `timm.create_model("local-dir:...")` work without Trocar.
"""

from functools import partial
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv
from torch import nn

__all__ = [
    "caformer_s18_relu",
    "vit_base_patch16_dinov3_noreg",
    "vit_large_patch16_dinov3_noreg",
    "vit_small_patch16_dinov3_noreg",
]


def _cfg(size: int, **kwargs: Any) -> dict[str, Any]:
    shape = {"input_size": (3, size, size), "num_classes": 0, "interpolation": "bicubic", "crop_pct": 1.0}
    return {**shape, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, **kwargs}


default_cfgs = generate_default_cfgs(
    {
        "caformer_s18_relu": _cfg(224, classifier="head.fc", first_conv="stem.conv", pool_size=(7, 7)),
        **{
            f"vit_{size}_patch16_dinov3_noreg": _cfg(336, classifier="head", first_conv="patch_embed.proj")
            for size in ("small", "base", "large")
        },
    }
)


class SepConvReLU(SepConv):
    """timm's inverted separable convolution with ReLU for StarReLU. A class of its own: timm asks for a subclass."""

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(dim, **{"act1_layer": nn.ReLU, **kwargs})


@register_model
def caformer_s18_relu(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CAFormer-S18 (arXiv 2210.13452) with ReLU for every StarReLU, as SurgeNet trained it."""
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
    arguments: dict[str, Any] = {
        "depths": [3, 3, 9, 3],
        "dims": [64, 128, 320, 512],
        "token_mixers": [SepConvReLU, SepConvReLU, Attention, Attention],
        "mlp_act": nn.ReLU,
        "norm_layers": [LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2,
    }
    model: nn.Module = build_model_with_cfg(
        MetaFormer,
        "caformer_s18_relu",
        pretrained,
        feature_cfg={"flatten_sequential": True, "out_indices": out_indices},
        **arguments,
        **kwargs,
    )
    return model


def _dinov3_noreg(size: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """DINOv3 (arXiv 2508.10104) without register tokens, with qkv bias and LayerNorm's epsilon of 1e-6."""
    name = f"vit_{size}_patch16_dinov3_noreg"
    cfg = kwargs.pop("pretrained_cfg", None) or default_cfgs[name].default.to_dict()
    arguments = {
        "num_reg_tokens": 0,
        "attn_type": "rope",
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "global_pool": "token",
        "num_classes": 0,
    }
    entry = timm.model_entrypoint(f"vit_{size}_patch16_dinov3_qkvb")
    model: nn.Module = entry(pretrained=pretrained, pretrained_cfg=cfg, **{**arguments, **kwargs})
    return model


@register_model
def vit_small_patch16_dinov3_noreg(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DINOv3 ViT-S/16 as SurgeNetDINO trained it."""
    return _dinov3_noreg("small", pretrained, kwargs)


@register_model
def vit_base_patch16_dinov3_noreg(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DINOv3 ViT-B/16 as SurgeNetDINO trained it."""
    return _dinov3_noreg("base", pretrained, kwargs)


@register_model
def vit_large_patch16_dinov3_noreg(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DINOv3 ViT-L/16 as SurgeNetDINO trained it."""
    return _dinov3_noreg("large", pretrained, kwargs)
