"""What a backbone makes of pictures on its way to pooled features, noted in passes that somebody else asks of it.

A method calls its student as it likes: view by view, all views of a size together, with masked patches, packed. Each
way goes through timm's `forward_features` and `forward_head`, but for packed views, which go through patch embedding
and final norm. There the features can be had without a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trocar.ssl.blocks.transformer_blocks import packs


@dataclass
class Passes:
    """Of each pass, in order: pictures [n, 3, S, S], the map of features as the network gives it, and pooled features
    [n, D].

    `maps` stay empty for a network of somebody's own that has no `forward_features`.
    """

    network: nn.Module
    pictures: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)

    def of_size(self, size: int) -> list[int]:
        """Which passes saw pictures of `size` pixels."""
        return [i for i, pictures in enumerate(self.pictures) if pictures.shape[-1] == size]

    def tokens(self, index: int) -> Tensor:
        """Patch tokens [n, N, D] of a pass: a transformer's without its prefix tokens, the places of a map of features
        else.
        """
        return as_tokens(self.network, self.maps[index])


def as_tokens(network: nn.Module, features: Tensor) -> Tensor:
    """What `forward_features` gives, [n, prefix + N, D], [n, D, H, W] or [n, H, W, D] -> [n, N, D]."""
    if features.dim() == 3:
        return features[:, int(getattr(network, "num_prefix_tokens", 0)) :]
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    return features.flatten(2).mT


@contextmanager
def noted(network: nn.Module) -> Iterator[Passes]:
    """Within, every pass of `network` is noted that keeps gradients as the caller does: in a step that trains, those of
    a student but not what is asked of it as a teacher.

    The network is as it was afterwards, and nothing that it computes changes.
    """
    passes, wanted = Passes(network), torch.is_grad_enabled()

    def note(kind: list[Tensor], value: Any) -> None:
        if torch.is_grad_enabled() == wanted:
            kind.append(value)

    model: Any = network
    with ExitStack() as stack:
        if packs(network):
            embedding, norm = model.patch_embed, model.norm
            hooks = [
                embedding.register_forward_pre_hook(lambda _, inputs: note(passes.pictures, inputs[0])),
                norm.register_forward_hook(lambda _, _inputs, out: note(passes.maps, out)),
            ]
            stack.enter_context(_replaced(network, "forward_head", _telling(model.forward_head, passes.pooled, note)))
        elif hasattr(network, "forward_features") and hasattr(network, "forward_head"):
            hooks = []
            features = _telling(model.forward_features, passes.maps, note, passes.pictures)
            stack.enter_context(_replaced(network, "forward_features", features))
            stack.enter_context(_replaced(network, "forward_head", _telling(model.forward_head, passes.pooled, note)))
        else:
            hooks = [
                network.register_forward_pre_hook(lambda _, inputs: note(passes.pictures, inputs[0])),
                network.register_forward_hook(lambda _, _inputs, out: note(passes.pooled, out)),
            ]
        for hook in hooks:
            stack.callback(hook.remove)
        yield passes


def _telling(
    function: Callable[..., Tensor],
    outputs: list[Tensor],
    note: Callable[[list[Tensor], Any], None],
    inputs: list[Tensor] | None = None,
) -> Callable[..., Tensor]:
    def told(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if inputs is not None:
            note(inputs, x)
        out = function(x, *args, **kwargs)
        note(outputs, out)
        return out

    return told


@contextmanager
def _replaced(module: nn.Module, name: str, function: Callable[..., Tensor]) -> Iterator[None]:
    """Within, a method of one module is another; past `nn.Module`, which has its own idea of attributes."""
    before = vars(module).get(name)
    object.__setattr__(module, name, function)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(module, name)
        else:
            object.__setattr__(module, name, before)
