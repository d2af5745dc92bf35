"""Depthwise convolutions with a float32 weight gradient: the same layer, the same results, a better gradient."""

import copy

import pytest
import timm
import torch
from torch import nn

from trocar.backbones.depthwise import Depthwise, use_exact_depthwise


def pair(*, stride=1, dilation=1, bias=True):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(8, 8, 5, stride, 2 * dilation, dilation, groups=8, bias=bias))
    swapped = copy.deepcopy(plain)
    assert use_exact_depthwise(swapped) == 1
    return plain, swapped


def run(model, images, autocast=True):
    """(output, gradient of the images, gradients of the parameters) of a loss that weighs every output differently."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(images)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out.float() * weights).sum().backward()
    return out.detach(), images.grad, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("shape", [{}, {"stride": 2}, {"dilation": 2}, {"bias": False}])
def test_output_and_input_gradient_are_those_of_the_plain_layer_bit_for_bit(shape):
    images = torch.randn(2, 8, 14, 14)
    (a, da, _), (b, db, _) = (run(model, images) for model in pair(**shape))
    assert a.dtype == b.dtype == torch.bfloat16
    assert torch.equal(a, b)
    assert torch.equal(da, db)


@pytest.mark.parametrize("shape", [{}, {"stride": 2}, {"dilation": 2}])
def test_weight_gradient_is_that_of_the_rounded_operands_in_float64(shape):
    plain, swapped = pair(**shape)
    images = torch.randn(2, 8, 14, 14)
    out, _, (weight, bias) = run(swapped, images)
    exact = copy.deepcopy(plain).to(torch.bfloat16).double()
    result = exact(images.to(torch.bfloat16).double())
    # autograd hands the layer the gradient of its bfloat16 output, rounded to bfloat16
    rounded = torch.linspace(-1, 1, out.numel()).view_as(out).to(torch.bfloat16).double()
    result.backward(rounded)
    torch.testing.assert_close(weight.double(), exact[0].weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias.double(), exact[0].bias.grad, rtol=1e-5, atol=1e-5)
    assert weight.dtype == torch.float32


def test_without_autocast_or_without_gradient_the_layer_is_a_plain_one():
    plain, swapped = pair()
    images = torch.randn(2, 8, 14, 14)
    for left, right in zip(run(plain, images, autocast=False)[2], run(swapped, images, autocast=False)[2], strict=True):
        assert torch.equal(left, right)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(images), swapped(images))


def test_only_depthwise_layers_change_and_the_state_keeps_its_names():
    model = timm.create_model("test_convnext", num_classes=0)
    names = list(model.state_dict())
    count = use_exact_depthwise(model)
    assert count == sum(m.groups > 1 for m in model.modules() if isinstance(m, nn.Conv2d)) > 0
    assert all(m.groups > 1 for m in model.modules() if isinstance(m, Depthwise))
    assert list(model.state_dict()) == names
    assert use_exact_depthwise(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=2))) == 0
