"""Pixels against PIL as timm calls it; the shares of operations and magnitudes as the recipe says."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_ops

from trocar.core.random import make_key, words
from trocar.data.views.randaugment import (
    MAX_LAYERS,
    OPERATIONS,
    WORDS,
    RandAugment,
    apply_code,
    apply_draws_,
    draws,
    histogram,
    written_out_grid,
)

BILINEAR = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}


def picture(size=48):
    coarse = torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    x = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", antialias=True)
    return ((x.clamp(0, 1) * 180) + 20).round() / 255


def ours(name, level):
    out = apply_code(picture(), OPERATIONS.index(name) + 1, torch.tensor([level]))
    return (out[0] * 255).permute(1, 2, 0).numpy()


def theirs(function, *args, **kwargs):
    image = Image.fromarray((picture()[0] * 255).round().byte().permute(1, 2, 0).numpy())
    return np.asarray(function(image, *args, **kwargs), np.float32)


@pytest.mark.parametrize("level", [-0.8, 0.3, 0.8])
@pytest.mark.parametrize("name", ["colour", "contrast", "brightness", "sharpness"])
def test_enhancements_are_pils(name, level):
    function = {"colour": timm_ops.color}.get(name) or getattr(timm_ops, name)
    difference = np.abs(ours(name, level) - theirs(function, max(0.1, 1 + 0.9 * level)))
    assert difference.max() < 2.0  # PIL rounds to integers on the way


def test_auto_contrast_and_equalize_are_pils():
    assert np.abs(ours("auto_contrast", 0.5) - theirs(timm_ops.auto_contrast)).max() < 1.0
    assert np.abs(ours("equalize", 0.5) - theirs(timm_ops.equalize)).max() < 1e-3


def test_auto_contrast_and_equalize_leave_a_flat_picture_alone():
    flat = torch.full((1, 3, 16, 16), 0.4)
    for name in ("auto_contrast", "equalize"):
        assert torch.equal(apply_code(flat, OPERATIONS.index(name) + 1, torch.ones(1)), flat)


@pytest.mark.parametrize("level", [-0.8, 0.8])
@pytest.mark.parametrize(
    ("name", "function", "scale"),
    [
        ("rotate", timm_ops.rotate, 30),
        ("shear_x", timm_ops.shear_x, 0.3),
        ("shear_y", timm_ops.shear_y, 0.3),
        ("translate_x", timm_ops.translate_x_rel, 0.45),
        ("translate_y", timm_ops.translate_y_rel, 0.45),
    ],
)
def test_geometry_is_pils_inside_the_picture_and_grey_outside(name, function, scale, level):
    expected, found = theirs(function, scale * level, **BILINEAR), ours(name, level)
    # PIL doesn't interpolate with the fill colour at the edge of the picture: compare away from it.
    difference = np.abs(found - expected).max(-1)
    assert np.quantile(difference, 0.85) < 1.0
    grey = (expected == 128).all(-1)
    assert grey.sum() > 50
    assert np.quantile(difference[grey], 0.8) < 1.0


def test_layers_draw_operations_alike_at_the_magnitude_of_the_recipe():
    recipe = RandAugment(operations=["rotate", "equalize", "brightness"], layers=2, magnitude=5, magnitude_std=1, p=0.5)
    bits = words(make_key(0, "test"), WORDS, 0, np.arange(4000)[:, None], np.arange(2)[None])
    op, level = recipe.deal(bits)
    assert op.shape == level.shape == (4000, 2, MAX_LAYERS)
    assert not op[..., 2:].any()
    assert not level[op == 0].any()
    codes = [OPERATIONS.index(name) + 1 for name in recipe.operations]
    shares = [(op[..., :2] == code).mean() for code in codes]
    assert shares == pytest.approx([1 / 6] * 3, abs=0.01)
    size = np.abs(level[op > 0])
    assert (size.mean(), size.std()) == pytest.approx((0.5, 0.1), abs=0.005)
    assert (level[op > 0] > 0).mean() == pytest.approx(0.5, abs=0.02)


def test_magnitudes_are_clipped_to_the_scale():
    recipe = RandAugment(magnitude=10, magnitude_std=3, p=1)
    _, level = recipe.deal(words(make_key(0, "test"), WORDS, 0, np.arange(500)))
    assert np.abs(level).max() == 1.0


def test_each_view_gets_the_operations_it_drew_in_their_order_and_others_are_not_touched():
    x = torch.cat([picture(), picture().flip(-1), picture().flip(-2), picture() * 0.5])
    rotate, equalize = (OPERATIONS.index(name) + 1 for name in ("rotate", "equalize"))
    op = np.array([[rotate, equalize, 0, 0], [equalize, rotate, 0, 0], [0, 0, 0, 0], [0, rotate, 0, 0]], np.int8)
    level = np.array([[0.5, 1, 0, 0], [1, -0.3, 0, 0], [0, 0, 0, 0], [0, 0.9, 0, 0]], np.float32)
    found = draws(op, level, torch.device("cpu"))
    order = [(equalize, [1]), (rotate, [0]), (equalize, [0]), (rotate, [1, 3])]
    assert [(draw.code, draw.index.tolist()) for draw in found] == order
    expected = []
    for view, codes, levels in zip(x, op.tolist(), torch.from_numpy(level), strict=True):
        one = view[None]
        for code, by in zip(codes, levels, strict=True):
            one = apply_code(one, code, by[None]) if code else one
        expected.append(one)
    torch.testing.assert_close(apply_draws_(x.clone(), found), torch.cat(expected), rtol=0, atol=1e-6)
    assert draws(np.zeros_like(op), level, torch.device("cpu")) == []


@pytest.mark.parametrize("lanes", [1, 32])
def test_histograms_in_lanes_add_up_to_the_histogram(lanes):
    value = torch.randint(0, 256, (2, 3, 1001), generator=torch.Generator().manual_seed(0))
    value[0, 1] = 7  # all of one value
    expected = [[torch.bincount(row, minlength=256) for row in view] for view in value]
    assert torch.equal(histogram(value, lanes), torch.stack([torch.stack(rows) for rows in expected]))


def test_the_grid_written_out_for_a_gpu_is_torch_s():
    theta = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.affine_grid(theta, [3, 3, 9, 9], align_corners=False)
    torch.testing.assert_close(written_out_grid(theta, 9), expected, rtol=0, atol=1e-6)
