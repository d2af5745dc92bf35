"""Depthwise convolutions whose gradients are found in another way than oneDNN finds them, for training on CPUs.

oneDNN's weight gradient of a depthwise convolution costs ten times its gradient of the input, which needs as many
products: with 7 x 7 kernels a seventh of a ConvNeXt's training step. But that gradient is itself a depthwise
convolution, of each image's channel with its output gradient as the kernel,

    dL/dw[c, i, j] = sum over n, y, x of input[n, c, y + i - padding, x + j - padding] dL/dout[n, c, y, x],

and oneDNN's forward kernels are fast at it. Where a layer strides, both gradients are many times slower in bfloat16
than in float32, and half of an EfficientNet-Lite0's training step; they are taken in float32 there. Everything else of
the layer is PyTorch's. `trocar bench trainer` shows the sum, `benchmarks/depthwise.py` the layer alone.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from typing_extensions import override

MIN_KERNEL = 5
"""With 3 x 3 kernels oneDNN's own gradient is the faster one, by far."""


class Depthwise(nn.Conv2d):
    """An `nn.Conv2d` in all but how its gradients are found; state and results of forward are the same.

    Under autocast the products with each image's output gradient are rounded to the autocast type, and summed over
    images in float32; of a layer that strides both gradients are those of the rounded operands in float32.
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not _differs(self, input):
            return super().forward(input)
        out: Tensor = _Convolution.apply(input, self.weight, self.bias, self)
        return out


class DepthwiseSame(Conv2dSame):
    """The same for timm's convolution that pads as TensorFlow does."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not _differs(self, input):
            unchanged: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
            return unchanged
        padded = pad_same(input, self.kernel_size, self.stride, self.dilation)  # type: ignore[arg-type]
        out: Tensor = _Convolution.apply(padded, self.weight, self.bias, self)
        return out


def _differs(layer: nn.Conv2d, input: Tensor) -> bool:
    """Whether gradients of this call are found in another way."""
    if not torch.is_grad_enabled() or input.device.type != "cpu" or layer.weight.dtype != torch.float32:
        return False
    return not _strides(layer) or torch.is_autocast_enabled("cpu")


def _strides(layer: nn.Conv2d) -> bool:
    return layer.stride != (1, 1)


class _Convolution(torch.autograd.Function):
    """Convolution and gradients in the autocast type if there is one; gradients of weight and bias in float32."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        image, kernel = input.to(kind), weight.to(kind)
        ctx.save_for_backward(image, kernel)
        ctx.layer, ctx.input_dtype = layer, input.dtype
        offset = None if bias is None else bias.to(kind)
        with torch.autocast("cpu", enabled=False):
            return nn.functional.conv2d(image, kernel, offset, layer.stride, layer.padding, groups=layer.groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        image, kernel = ctx.saved_tensors
        of_input, of_weight, of_bias, _ = ctx.needs_input_grad
        bias = gradient.sum((0, 2, 3), dtype=torch.float32) if of_bias else None
        if _strides(ctx.layer):
            operands = (gradient.float(), image.float(), kernel.float())
            back, weight = layer_gradients(ctx.layer, *operands, of_input=of_input, of_weight=of_weight)
        else:
            back, _ = layer_gradients(ctx.layer, gradient, image, kernel, of_input=of_input, of_weight=False)
            weight = weight_gradient(image, gradient, ctx.layer.padding) if of_weight else None
        return None if back is None else back.to(ctx.input_dtype), weight, bias, None


def weight_gradient(image: Tensor, gradient: Tensor, padding: tuple[int, int]) -> Tensor:
    """Of a depthwise convolution with stride and dilation 1: float32, (C, 1, height and width of the kernel).

    `image` is (N, C, H, W), `gradient` that of the output, (N, C, h, w) and of the same type; `padding` is of height
    and width.
    """
    count, channels, height, width = image.shape
    # Contiguous: with channels last, oneDNN reorders N x C kernels as large as the images.
    planes = image.contiguous().view(1, count * channels, height, width)
    kernels = gradient.contiguous().view(count * channels, 1, *gradient.shape[2:])
    if any(pad >= size for pad, size in zip(padding, gradient.shape[2:], strict=True)):  # no fast kernel pads so far
        planes, padding = nn.functional.pad(planes, (padding[1], padding[1], padding[0], padding[0])), (0, 0)
    with torch.autocast("cpu", enabled=False):
        each = nn.functional.conv2d(planes, kernels, padding=padding, groups=count * channels)
    return each.view(count, channels, *each.shape[2:]).sum(0, dtype=torch.float32).unsqueeze(1)


def layer_gradients(
    layer: nn.Conv2d, gradient: Tensor, image: Tensor, kernel: Tensor, *, of_input: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """PyTorch's own of input and weight, in the type of the operands; None where not wanted.

    `gradient` (N, C, h, w) is that of the output, `image` (N, C, H, W), `kernel` (C, 1, height, width).
    """
    if not of_input and not of_weight:
        return None, None
    how = (layer.stride, layer.padding, (1, 1), False, (0, 0), layer.groups)
    back, weight, _ = torch.ops.aten.convolution_backward(
        gradient, image, kernel, None, *how, (of_input, of_weight, False)
    )
    return back, weight


def use_fast_gradients(model: nn.Module) -> int:
    """Turn the depthwise convolutions of `model` that gain by it into `Depthwise` or `DepthwiseSame` in place; returns
    how many do.

    Only plain `nn.Conv2d` with zero padding given in numbers and timm's `Conv2dSame`: other subclasses pad or scale in
    their own way.
    """
    swaps: dict[type, type] = {nn.Conv2d: Depthwise, Conv2dSame: DepthwiseSame}
    found = [m for m in model.modules() if type(m) in swaps and isinstance(m, nn.Conv2d) and _gains(m)]
    for layer in found:
        layer.__class__ = swaps[type(layer)]
    return len(found)


def _gains(layer: nn.Conv2d) -> bool:
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    single = layer.dilation == (1, 1) and 1 < layer.groups == layer.in_channels == layer.out_channels
    if isinstance(layer, Conv2dSame) and not _strides(layer):
        return False  # the fast weight gradient pads both sides alike
    return plain and single and (_strides(layer) or min(layer.kernel_size) >= MIN_KERNEL)
