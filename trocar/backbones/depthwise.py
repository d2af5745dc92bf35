"""Depthwise convolutions whose weight gradient is taken in float32, for bfloat16 training on CPUs.

oneDNN's weight gradient of a depthwise convolution is slower in bfloat16 than in float32, which eats much of what
bfloat16 gains on a ConvNeXt. Everything else of the layer stays in bfloat16. `trocar bench trainer` shows the sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Depthwise(nn.Conv2d):
    """An `nn.Conv2d` in all but the precision of one gradient; state and results of forward are the same."""

    def forward(self, input: Tensor) -> Tensor:
        if not (torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()) or self.weight.dtype != torch.float32:
            return super().forward(input)
        out: Tensor = _Convolution.apply(input, self.weight, self.bias, self)
        return out


class _Convolution(torch.autograd.Function):
    """Convolution in bfloat16; gradient of the input in bfloat16, of weight and bias in float32."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
        image, kernel = input.to(torch.bfloat16), weight.to(torch.bfloat16)
        ctx.save_for_backward(image, kernel)
        ctx.layer, ctx.input_dtype = layer, input.dtype
        with torch.autocast("cpu", enabled=False):
            return nn.functional.conv2d(
                image,
                kernel,
                None if bias is None else bias.to(torch.bfloat16),
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
            )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        image, kernel = ctx.saved_tensors
        of_input, of_weight, of_bias, _ = ctx.needs_input_grad
        back = None
        if of_input:
            back = _backward(ctx.layer, gradient, image, kernel, (True, False, False))[0].to(ctx.input_dtype)
        exact = _backward(ctx.layer, gradient.float(), image.float(), kernel.float(), (False, of_weight, of_bias))
        return back, exact[1], exact[2], None


def _backward(layer: nn.Conv2d, gradient: Tensor, image: Tensor, kernel: Tensor, mask: tuple[bool, bool, bool]) -> Any:
    channels = [layer.out_channels] if mask[2] else None
    return torch.ops.aten.convolution_backward(
        gradient,
        image,
        kernel,
        channels,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        (0, 0),
        layer.groups,
        mask,
    )


def use_exact_depthwise(model: nn.Module) -> int:
    """Turn the depthwise convolutions of `model` into `Depthwise` in place; returns how many there are.

    Only plain `nn.Conv2d` with zero padding given in numbers: subclasses pad or scale in their own way.
    """
    found = [m for m in model.modules() if type(m) is nn.Conv2d and _is_depthwise(m)]
    for layer in found:
        layer.__class__ = Depthwise
    return len(found)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and 1 < layer.groups == layer.in_channels
