"""LoRA (Hu et al., arXiv 2106.09685): a network's weights stay, and low-rank factors of linear layers and of 1 x 1
convolutions learn.

A layer with weight W gives, as in `peft`, W x + alpha / rank * B A dropout(x), with A [rank, in] drawn uniformly by
Kaiming's rule (a = sqrt(5), so within +-1 / sqrt(in)) and B [out, rank] zero: before the first step the network gives
what it gave. Layers are changed in place and keep their names, `NAME.lora_a` and `NAME.lora_b` come to the state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.backbones.preprocess import describe_backbone
from trocar.core.config import Config
from trocar.core.random import torch_seeded
from trocar.errors import ConfigError

FACTORS = ("lora_a", "lora_b")
SHOWN = 6
"""Names that an error lists."""


class LoraConfig(Config):
    """Low-rank factors that learn in the place of the backbone's weights."""

    rank: int = Field(default=8, ge=1, description="rows of A and columns of B, at least 1")
    alpha: float = Field(default=16.0, gt=0, description="the factors' product counts alpha / rank")
    targets: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="names of linear layers and 1 x 1 convolutions in the backbone, with * for anything, such as "
        "[*.attn.qkv, *.attn.proj]; default: all of them",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of what A sees, 0 to below 1")


class LoraLinear(nn.Linear):
    """[..., in] -> [..., out]: `nn.Linear` plus its factors."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float
    lora_dropout: float

    @override
    def forward(self, input: Tensor) -> Tensor:
        seen = F.dropout(input, self.lora_dropout, self.training)
        low = F.linear(F.linear(seen, self.lora_a), self.lora_b)
        return F.linear(input, self.weight, self.bias) + self.lora_scale * low


class LoraConv2d(nn.Conv2d):
    """[b, in, H, W] -> [b, out, h, w]: a 1 x 1 `nn.Conv2d` plus its factors; A has the stride, as in peft."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float
    lora_dropout: float

    @override
    def forward(self, input: Tensor) -> Tensor:
        seen = F.dropout(input, self.lora_dropout, self.training)
        low = F.conv2d(seen, self.lora_a[:, :, None, None], None, self.stride, self.padding)
        low = F.conv2d(low, self.lora_b[:, :, None, None])
        return super().forward(input) + self.lora_scale * low


Adapted = LoraLinear | LoraConv2d


def add_lora(network: nn.Module, config: LoraConfig, *, seed: int, size: tuple[int, int] | None = None) -> list[str]:
    """Freeze `network` and give the layers that `config` names their factors, in place; returns the layers' names.

    The factors follow from `seed` alone, so networks of one architecture get the same. `size` is the height and width
    of a picture that the network takes (None: its own). Raises ConfigError for a target that names no linear layer and
    no 1 x 1 convolution, and for layers whose weight the network reads without calling them, as BEiT's attention does:
    their factors would have no part in it.
    """
    layers = {name: module for name, module in network.named_modules() if _takes_factors(module)}
    chosen = [name for name in layers if any(fnmatchcase(name, target) for target in config.targets)]
    for target in config.targets:
        if not any(fnmatchcase(name, target) for name in layers):
            near = get_close_matches(target, layers, SHOWN, cutoff=0.0) if layers else []
            raise ConfigError(
                f"lora.targets: {target!r} names no linear layer and no 1 x 1 convolution of this "
                f"{type(network).__name__}; of its {len(layers)}, near are {', '.join(near) or 'none'}"
            )
    if missed := _not_called(network, chosen, size or describe_backbone(network).size):
        raise ConfigError(
            f"lora.targets: this {type(network).__name__} never calls {_listed(missed)}: factors there would learn "
            f"nothing. Name the others, such as {_listed([n for n in chosen if n not in missed]) or 'none'}"
        )
    network.requires_grad_(False)
    with torch_seeded(seed, "lora"):
        for name in chosen:
            _adapt(layers[name], config)
    return chosen


def adapted_layers(network: nn.Module) -> dict[str, Adapted]:
    """The layers with factors, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, (LoraLinear, LoraConv2d))}


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of `network` as if it had never had factors: W + alpha / rank * B A in the place of each W.

    All else are the network's own tensors.
    """
    state = {name: value.detach() for name, value in network.state_dict().items() if not is_factor(name)}
    for name, layer in adapted_layers(network).items():
        # The module itself may be such a layer, and has no name then.
        state[f"{name}.weight".removeprefix(".")] = merged_weight(layer)
    return state


@torch.no_grad()
def merged_weight(layer: Adapted) -> Tensor:
    """W + alpha / rank * B A, in the shape of W."""
    return layer.weight + layer.lora_scale * (layer.lora_b @ layer.lora_a).view_as(layer.weight)


def is_factor(name: str) -> bool:
    """Whether a name in a state is that of a factor."""
    return name.rpartition(".")[2] in FACTORS


def weight_of_factor(name: str) -> str:
    """The name of the weight that a factor stands beside."""
    return f"{name.rpartition('.')[0]}.weight".removeprefix(".")


def _takes_factors(module: nn.Module) -> bool:
    """Only the plain classes: subclasses compute in ways of their own."""
    if type(module) is nn.Linear:
        return True
    if type(module) is not nn.Conv2d:
        return False
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return plain and module.kernel_size == (1, 1) and module.groups == 1


def _adapt(layer: Any, config: LoraConfig) -> None:
    out, width = layer.weight.shape[:2]
    layer.__class__ = LoraLinear if isinstance(layer, nn.Linear) else LoraConv2d
    a, b = layer.weight.new_empty(config.rank, width), layer.weight.new_zeros(out, config.rank)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    layer.lora_a, layer.lora_b = nn.Parameter(a), nn.Parameter(b)
    layer.lora_scale, layer.lora_dropout = config.alpha / config.rank, config.dropout


@torch.no_grad()
def _not_called(network: nn.Module, names: Sequence[str], size: tuple[int, int]) -> list[str]:
    """Which of the layers a pass of one black picture doesn't call."""
    modes = {module: module.training for module in network.modules()}
    called: set[str] = set()
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(lambda _m, _x, name=name: called.add(name))
        for name in names
    ]
    try:
        network.eval()(next(network.parameters()).new_zeros(1, 3, *size))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return [name for name in names if name not in called]


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
