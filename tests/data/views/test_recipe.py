import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from trocar.core.config import validate
from trocar.data.views.randaugment import Erasing, RandAugment
from trocar.data.views.recipe import Jitter, ViewGroup, ViewPlan, ViewRecipe
from trocar.errors import ConfigError

DINO = ViewRecipe(
    groups={
        "global": ViewGroup(count=2, size=96, scale=(0.4, 1.0), blur=[1.0, 0.1], solarize=[0.0, 0.2]),
        "local": ViewGroup(count=4, size=48, scale=(0.05, 0.4)),
    }
)


def params(recipe=DINO, seed=0, step=0, slots=64, width=320, height=240):
    n = np.arange(slots)
    return ViewPlan(recipe, seed).params(step, n, np.full(slots, width), np.full(slots, height))


def test_parameters_depend_on_seed_step_slot_and_view_alone():
    whole = params(slots=8, step=3)
    part = ViewPlan(DINO, 0).params(3, np.array([5, 2]), np.full(2, 320), np.full(2, 240))
    for name in ("boxes", "flip", "colour", "order", "grey", "sigma", "solarize", "mask_seed"):
        assert (getattr(whole, name)[[5, 2]] == getattr(part, name)).all(), name
    for other in (params(slots=8, step=4), params(slots=8, step=3, seed=1)):
        assert (other.boxes != whole.boxes).any(-1).all()


def test_every_box_lies_inside_its_frame():
    for width, height in ((320, 240), (100, 900), (16, 16), (1920, 1080)):
        top, left, h, w = np.moveaxis(params(width=width, height=height, slots=200).boxes, -1, 0)
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (h > 0).all()
        assert (w > 0).all()
        assert (top + h <= height).all()
        assert (left + w <= width).all()


def test_area_and_ratio_are_distributed_as_in_torchvision():
    boxes = params(slots=3000).boxes
    torch.manual_seed(0)
    image = torch.zeros(3, 240, 320)
    for which, scale in ((0, (0.4, 1.0)), (2, (0.05, 0.4))):
        theirs = np.array([RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3])[2:] for _ in range(3000)])
        ours = boxes[:, which, 2:]
        for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
            area = [np.quantile(b[:, 0] * b[:, 1] / (240 * 320), quantile) for b in (ours, theirs)]
            ratio = [np.quantile(np.log(b[:, 1] / b[:, 0]), quantile) for b in (ours, theirs)]
            assert area[0] == pytest.approx(area[1], abs=0.02)
            assert ratio[0] == pytest.approx(ratio[1], abs=0.04)


def test_a_frame_that_no_draw_fits_gets_the_largest_central_crop():
    recipe = ViewRecipe(groups={"g": ViewGroup(count=1, size=8, scale=(0.9, 1.0))})
    top, left, h, w = params(recipe, slots=1, width=1000, height=10).boxes[0, 0].tolist()
    assert (top, h, w) == (0, 10, 13)
    assert left == (1000 - 13) // 2


def test_probabilities_hold_per_view():
    drawn = params(slots=20_000)
    share = {name: getattr(drawn, name).mean(0) for name in ("flip", "grey", "solarize")}
    assert share["flip"] == pytest.approx(np.full(6, 0.5), abs=0.015)
    assert share["grey"] == pytest.approx(np.full(6, 0.2), abs=0.015)
    assert share["solarize"] == pytest.approx([0, 0.2, 0, 0, 0, 0], abs=0.015)
    assert (drawn.sigma > 0).mean(0) == pytest.approx([1.0, 0.1, 0.5, 0.5, 0.5, 0.5], abs=0.015)
    blurred = drawn.sigma[drawn.sigma > 0]
    assert blurred.min() >= 0.1
    assert blurred.max() <= 2.0
    assert blurred.mean() == pytest.approx(1.05, abs=0.02)


def test_jitter_factors_stay_in_their_ranges_and_all_orders_occur():
    recipe = ViewRecipe(groups={"g": ViewGroup(count=1, size=8, scale=(0.5, 1.0), jitter=Jitter(p=1.0))})
    drawn = params(recipe, slots=5000)
    low, high = drawn.colour[:, 0].min(0), drawn.colour[:, 0].max(0)
    assert low == pytest.approx([0.6, 0.6, 0.8, -0.1], abs=0.01)
    assert high == pytest.approx([1.4, 1.4, 1.2, 0.1], abs=0.01)
    assert np.unique(drawn.order[:, 0], axis=0).shape == (math.factorial(4), 4)


def test_without_jitter_the_factors_are_neutral():
    recipe = ViewRecipe(groups={"g": ViewGroup(count=1, size=8, scale=(0.5, 1.0), jitter=Jitter(p=0.0))})
    assert (params(recipe).colour == np.array([1, 1, 1, 0], np.float32)).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": [0.5, 0.2]}, "0 < low <= high"),
        ({"blur": [0.5]}, "one for each of the 2 views"),
        ({"grey": 1.5}, "expected a probability"),
        ({"sise": 3}, "did you mean 'size'"),
    ],
)
def test_a_bad_group_is_refused_with_what_is_allowed(change, words):
    with pytest.raises(ConfigError, match=words):
        validate(ViewGroup, {"count": 2, "size": 96, "scale": [0.4, 1.0], **change}, "views.yaml")


def test_recipes_with_rand_augment_and_erasing_leave_all_other_draws_alone():
    group = {"count": 2, "size": 64, "scale": (0.5, 1.0)}
    plain = params(ViewRecipe(groups={"g": ViewGroup(**group)}))
    more = params(ViewRecipe(groups={"g": ViewGroup(**group, rand_augment=RandAugment(), erase=Erasing())}))
    for name in ("boxes", "flip", "colour", "order", "grey", "sigma", "solarize", "mask_seed"):
        assert (getattr(plain, name) == getattr(more, name)).all(), name
    assert not plain.rand_op.any()
    assert not plain.erase.any()
    assert more.rand_op.any()


def test_erased_rectangles_have_the_shares_and_areas_asked_for():
    recipe = ViewRecipe(groups={"g": ViewGroup(count=1, size=100, scale=(0.5, 1.0), erase=Erasing(p=0.8))})
    erase = params(recipe, slots=2000).erase[:, 0]
    erased = erase[:, 2] > 0
    assert erased.mean() == pytest.approx(0.8, abs=0.03)
    top, left, height, width = erase[erased].T
    area = height * width / 100**2
    assert area.min() > 0.018
    assert area.max() < 0.105
    assert area.mean() == pytest.approx(0.06, abs=0.003)
    assert (top + height <= 100).all()
    assert (left + width <= 100).all()
