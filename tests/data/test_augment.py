"""Parity with torchvision where both define the same thing; the sizes of the two stated deviations."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from trocar.data.augment import augment_group, blur, blur_matrices, colour_maps
from trocar.data.views import ViewParams

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def crops(n=4, size=32, seed=0, low=40, high=216):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (smooth * (high - low) + low).round().to(torch.uint8)


def neutral(n):
    """Parameters of n samples with one view each that change nothing."""
    return ViewParams(
        frame=np.zeros(1, np.int8),
        boxes=np.zeros((n, 1, 4), np.int32),
        flip=np.zeros((n, 1), bool),
        colour=np.tile(np.array([1, 1, 1, 0], np.float32), (n, 1, 1)),
        order=np.tile(np.arange(4, dtype=np.int8), (n, 1, 1)),
        grey=np.zeros((n, 1), bool),
        sigma=np.zeros((n, 1), np.float32),
        solarize=np.zeros((n, 1), bool),
        mask_seed=np.zeros((n, 1), np.uint32),
    )


def run(x, **changes):
    """Augmented pixels in 0..255, before normalisation."""
    params = neutral(len(x))
    for name, value in changes.items():
        getattr(params, name)[...] = value
    out = augment_group(x[:, None], params, (0.0,) * 3, (1.0,) * 3)
    return out[:, 0] * 255


def test_neutral_parameters_only_normalise():
    x = crops()
    out = augment_group(x[:, None], neutral(len(x)), MEAN, STD)[:, 0]
    expected = tv.normalize(x.float() / 255, list(MEAN), list(STD))
    assert torch.allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.3])
@pytest.mark.parametrize("op", ["brightness", "contrast", "saturation"])
def test_single_colour_operations_match_torchvision(op, factor):
    x = crops()
    colour = np.array([1, 1, 1, 0], np.float32)
    colour[["brightness", "contrast", "saturation"].index(op)] = factor
    expected = getattr(tv, f"adjust_{op}")(x.float() / 255, factor) * 255
    # torchvision's contrast and saturation use luma weights 0.2989, 0.587, 0.114
    assert (run(x, colour=colour) - expected).abs().max() < 0.1


def test_grey_and_flip_and_solarize_match_torchvision():
    x = crops()
    assert (run(x, grey=True) - tv.rgb_to_grayscale(x.float(), 3)).abs().max() < 0.1
    assert torch.equal(run(x, flip=True).round().to(torch.uint8), tv.hflip(x))
    assert (run(x, solarize=True) - tv.solarize(x, 128).float()).abs().max() < 1e-3


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_matches_a_wide_torchvision_kernel(sigma):
    x = crops().float()
    expected = tv.gaussian_blur(x, [31, 31], [sigma, sigma])
    assert (blur(x, torch.full((4,), sigma)) - expected).abs().max() < 0.02


def test_blur_keeps_constants_and_leaves_sigma_zero_alone():
    flat = torch.full((2, 3, 16, 16), 0.7)
    assert torch.allclose(blur(flat, torch.tensor([1.5, 0.3])), flat, atol=1e-6)
    x = crops(2).float()
    out = blur(x, torch.tensor([0.0, 1.0]))
    assert torch.equal(out[0], x[0])
    assert not torch.equal(out[1], x[1])
    assert torch.allclose(blur_matrices(torch.tensor([0.8]), 12).sum(-1), torch.ones(1, 12))


def test_every_order_of_jitter_matches_torchvision_where_nothing_clips():
    x = crops(2, low=90, high=160)
    factors = np.array([1.1, 0.8, 1.2, 0.0], np.float32)
    adjust = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation]
    for order in itertools.permutations(range(4)):
        expected = x.float() / 255
        for op in order:
            expected = expected if op == 3 else adjust[op](expected, float(factors[op]))
        assert (run(x, colour=factors, order=np.array(order, np.int8)) - expected * 255).abs().max() < 0.2, order


def test_hue_rotation_keeps_luma_and_grey_and_turns_back():
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    order, grey = torch.arange(4).repeat(5, 1), torch.zeros(5, dtype=torch.bool)
    luma = torch.tensor([0.299, 0.587, 0.114])
    forward, _ = colour_maps(x, torch.tensor([[1, 1, 1, 0.1]]).repeat(5, 1), order, grey)
    back, _ = colour_maps(x, torch.tensor([[1, 1, 1, -0.1]]).repeat(5, 1), order, grey)
    turned = (forward @ x[..., None])[..., 0]
    assert torch.allclose(turned @ luma, x @ luma, atol=1e-5)
    assert torch.allclose((back @ turned[..., None])[..., 0], x, atol=1e-5)
    assert torch.allclose(forward @ torch.ones(3), torch.ones(5, 3), atol=1e-4)
    assert not torch.allclose(turned, x, atol=0.02)


def test_hue_deviation_from_hsv_is_of_the_stated_size():
    """As docs/data.md states it: 14.4 of 255 on average, for the largest shift of the recipe on saturated colours."""
    x = crops(8)
    expected = tv.adjust_hue(x.float() / 255, 0.1) * 255
    difference = (run(x, colour=np.array([1, 1, 1, 0.1], np.float32)) - expected).abs()
    assert difference.mean().item() == pytest.approx(14.4, abs=0.1)


def test_a_sample_does_not_depend_on_its_batch():
    x = crops(6)
    params = neutral(6)
    params.colour[...] = np.array([1.2, 0.7, 1.3, 0.05], np.float32)
    params.sigma[...] = 1.1
    whole = augment_group(x[:, None], params, MEAN, STD)
    one = augment_group(x[2:3, None], params.samples(slice(2, 3)), MEAN, STD)
    assert torch.allclose(whole[2:3], one, atol=1e-5)
