"""Which parameters share a learning rate and a weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models._manipulate import group_with_matcher
from timm.optim._param_groups import auto_group_layers
from torch import nn

from trocar.errors import ConfigError
from trocar.ssl.engine.optimizer_config import OptimConfig

_HEAD = "projection_head"


def parameter_groups(module: nn.Module, backbones: Sequence[nn.Module], config: OptimConfig) -> list[dict[str, Any]]:
    """Groups of the parameters of `module` that train, each with `lr_scale` and `weight_decay_scale`.

    `backbones[0]` is the one that trains; parameters outside of it, such as heads, have `lr_scale` 1. Biases and
    one-dimensional parameters aren't decayed, unless `config.decay` is `all`. The order follows from the scales
    (decayed first, then by rising learning rate) and, inside a group, from the order in the module.

    Raises ConfigError for a patch embedding that the backbone doesn't have.
    """
    scales = _backbone_scales(backbones[0], config)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_plain = config.decay == "matrices" and (name.endswith(".bias") or parameter.ndim <= 1)
            key = (0.0 if is_plain else 1.0, scales.get(parameter, 1.0))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": groups[key], "lr_scale": key[1], "weight_decay_scale": key[0]}
        for key in sorted(groups, key=lambda key: (-key[0], key[1]))
    ]


def _backbone_scales(backbone: nn.Module, config: OptimConfig) -> dict[nn.Parameter, float]:
    """decay ** (layer of the head - layer); the patch embedding's factor on top of it."""
    scales: dict[nn.Parameter, float] = {}
    if config.layer_decay is not None:
        layers, head = _layers(backbone)
        scales |= {p: config.layer_decay ** (head - layers[name]) for name, p in backbone.named_parameters()}
    if config.patch_embed_lr != 1:
        embedding = [p for name, p in backbone.named_parameters() if "patch_embed" in name or name.startswith("stem")]
        if not embedding:
            raise ConfigError("optim.patch_embed_lr: the backbone has no patch embedding; leave the setting away")
        scales |= {p: scales.get(p, 1.0) * config.patch_embed_lr for p in embedding}
    return scales


def _layers(backbone: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of each parameter, and that of a head on the backbone, as timm numbers them.

    The stem is 0 and each block one more; a final norm belongs to the last block (ViT) or to the head (ConvNeXt).
    Models that don't tell timm their layers (CAFormer) are cut into layers of twelve parameters, as timm does.
    """
    if not hasattr(backbone, "group_matcher"):
        layers: dict[str, int] = auto_group_layers(backbone)  # type: ignore[no-untyped-call]
        return layers, max(layers.values()) + 1
    # Without a name for the head, the last block of a backbone without classifier would count as the head itself.
    names = [(name, None) for name in (*dict(backbone.named_parameters()), _HEAD)]
    layers = group_with_matcher(iter(names), backbone.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    return layers, layers[_HEAD]
