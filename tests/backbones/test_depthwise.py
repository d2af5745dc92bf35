"""Depthwise convolutions with fast gradients: the same layer, the same results, the same gradients."""

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from trocar.backbones.depthwise import Depthwise, DepthwiseSame, use_fast_gradients

SHAPES = [{}, {"bias": False}, {"kernel": (5, 7)}, {"padding": 0}, {"padding": (1, 3)}, {"size": (3, 2)}]
STRIDED = [
    lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
    lambda: nn.Conv2d(8, 8, 5, stride=(2, 3), padding=(2, 0), groups=8, bias=False),
    lambda: Conv2dSame(8, 8, 5, stride=2, groups=8),
    lambda: Conv2dSame(8, 8, 3, stride=2, groups=8, bias=False),
]
SIZE = (14, 11)


def pair(*, kernel=5, padding=2, bias=True, size=SIZE):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(8, 8, kernel, padding=padding, groups=8, bias=bias))
    swapped = copy.deepcopy(plain)
    assert use_fast_gradients(swapped) == 1
    return plain, swapped, torch.randn(2, 8, *size)


def run(model, images, autocast):
    """(output, gradient of the images, gradients of the parameters) of a loss that weighs every output differently."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(images)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out.float() * weights).sum().backward()
    return out.detach(), images.grad, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_input_gradient_are_those_of_the_plain_layer_bit_for_bit(shape, memory, autocast):
    *models, images = pair(**shape)
    (a, da, _), (b, db, _) = (run(model, images.to(memory_format=memory), autocast) for model in models)
    assert a.dtype == b.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert torch.equal(a, b)
    assert torch.equal(da, db)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_in_float32_are_those_in_float64(shape, memory):
    plain, swapped, images = pair(**shape)
    _, _, gradients = run(swapped, images.to(memory_format=memory), autocast=False)
    _, _, exact = run(plain.double(), images.double(), autocast=False)
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_under_autocast_are_those_of_the_rounded_operands_up_to_one_rounding_per_image(shape):
    plain, swapped, images = pair(**shape)
    out, _, gradients = run(swapped, images, autocast=True)
    # autograd hands the layer the gradient of its bfloat16 output, rounded to bfloat16
    rounded = torch.linspace(-1, 1, out.numel()).view_as(out).bfloat16().double()
    each = []
    for image, back in zip(images.bfloat16().double(), rounded, strict=True):
        exact = copy.deepcopy(plain).bfloat16().double()
        exact(image.unsqueeze(0)).backward(back.unsqueeze(0))
        each.append(exact[0].weight.grad)
    bound = sum(part.abs() for part in each) * 2.0**-8 + 1e-6
    assert ((gradients[0].double() - sum(each)).abs() <= bound).all()
    assert gradients[0].dtype == torch.float32
    for ours in gradients[1:]:
        torch.testing.assert_close(ours.double(), rounded.sum((0, 2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("make", STRIDED)
def test_gradients_of_a_layer_that_strides_are_those_of_the_rounded_operands_in_float64(make, memory):
    torch.manual_seed(0)
    plain = nn.Sequential(make())
    swapped = copy.deepcopy(plain)
    assert use_fast_gradients(swapped) == 1
    images = torch.randn(2, 8, *SIZE).to(memory_format=memory)
    out, of_images, gradients = run(swapped, images, autocast=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(out, plain(images))
    rounded = torch.linspace(-1, 1, out.numel()).view_as(out).bfloat16().double()
    exact, leaf = copy.deepcopy(plain).bfloat16().double(), images.bfloat16().double().requires_grad_()
    exact(leaf).backward(rounded)
    torch.testing.assert_close(of_images.double(), leaf.grad, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, exact.parameters(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", STRIDED)
def test_in_float32_a_layer_that_strides_is_the_plain_one_bit_for_bit(make):
    torch.manual_seed(0)
    plain = nn.Sequential(make())
    swapped = copy.deepcopy(plain)
    use_fast_gradients(swapped)
    images = torch.randn(2, 8, *SIZE)
    (a, da, pa), (b, db, pb) = (run(model, images, autocast=False) for model in (plain, swapped))
    assert all(torch.equal(x, y) for x, y in zip([a, da, *pa], [b, db, *pb], strict=True))


def test_layers_of_an_efficientnet_that_stride_or_are_large_change_and_no_other():
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    names = list(model.state_dict())
    own = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1}
    use_fast_gradients(model)
    for name, layer in own.items():
        kind = DepthwiseSame if layer.stride == (2, 2) else Depthwise if layer.kernel_size == (5, 5) else nn.Conv2d
        assert type(layer) is kind, name
    assert list(model.state_dict()) == names


def test_without_gradient_the_layer_is_a_plain_one():
    plain, swapped, images = pair()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(images), swapped(images))


def test_a_frozen_weight_gets_no_gradient_and_the_input_does():
    *_, swapped, images = pair()
    swapped.requires_grad_(requires_grad=False)
    images.requires_grad_()
    swapped(images).sum().backward()
    assert images.grad is not None
    assert swapped[0].weight.grad is None


def test_only_layers_that_gain_change_and_the_state_keeps_its_names():
    model = timm.create_model("test_convnext", num_classes=0)
    names = list(model.state_dict())
    count = use_fast_gradients(model)
    assert count == sum(m.groups > 1 for m in model.modules() if isinstance(m, nn.Conv2d)) > 0
    assert all(m.groups > 1 for m in model.modules() if isinstance(m, Depthwise))
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 5),
        nn.Conv2d(8, 16, 5, groups=8),
        nn.Conv2d(8, 8, 5, groups=2),
        nn.Conv2d(8, 8, 5, dilation=2, groups=8),
        nn.Conv2d(8, 8, 5, padding="same", groups=8),
        nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect", groups=8),
        nn.Conv2d(8, 8, 5, stride=2, padding=2, padding_mode="reflect", groups=8),
        Conv2dSame(8, 8, 5, groups=8),
    ],
)
def test_other_layers_stay_as_they_are(layer):
    kind = type(layer)
    assert use_fast_gradients(nn.Sequential(layer)) == 0
    assert type(layer) is kind
