"""Parity with torchvision where both define the same thing; the two stated deviations; both ways through."""

import itertools

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torchvision.transforms import functional as tv

from trocar.data.views.augment import augment, augment_batch
from trocar.data.views.pixel_ops import Compiler, as_it_is
from trocar.data.views.randaugment import MAX_LAYERS, OPERATIONS, Erasing, RandAugment
from trocar.data.views.recipe import ViewGroup, ViewParams, ViewPlan, ViewRecipe

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
        rand_op=np.zeros((n, 1, MAX_LAYERS), np.int8),
        rand_level=np.zeros((n, 1, MAX_LAYERS), np.float32),
        erase=np.zeros((n, 1, 4), np.int32),
        mask_seed=np.zeros((n, 1), np.uint32),
    )


def recipe_of(size):
    return ViewRecipe(groups={"view": ViewGroup(count=1, size=size, scale=(0.5, 1.0))})


def augment_group(x, params, mean, std):
    """One group of one view per sample: uint8[n, 1, 3, S, S]."""
    return augment({"view": x}, params, recipe_of(x.shape[-1]), mean, std)["view"]


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


def test_every_order_of_jitter_matches_torchvision_where_nothing_clips():
    x = crops(2, low=90, high=160)
    factors = np.array([1.1, 0.8, 1.2, 0.0], np.float32)
    adjust = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation]
    for order in itertools.permutations(range(4)):
        expected = x.float() / 255
        for op in order:
            expected = expected if op == 3 else adjust[op](expected, float(factors[op]))
        assert (run(x, colour=factors, order=np.array(order, np.int8)) - expected * 255).abs().max() < 0.2, order


def test_hue_deviation_from_hsv_is_of_the_stated_size():
    """As docs/data.md states it: 14.4 of 255 on average, for the largest shift of the recipe on saturated colours."""
    x = crops(8)
    expected = tv.adjust_hue(x.float() / 255, 0.1) * 255
    difference = (run(x, colour=np.array([1, 1, 1, 0.1], np.float32)) - expected).abs()
    assert difference.mean().item() == pytest.approx(14.4, abs=0.1)


EVERYTHING = ViewRecipe(
    groups={
        "global": ViewGroup(
            count=2,
            size=40,
            scale=(0.4, 1.0),
            blur=0.7,
            solarize=0.4,
            grey=0.3,
            rand_augment=RandAugment(p=0.9),
            erase=Erasing(),
        ),
        "local": ViewGroup(count=3, size=24, scale=(0.05, 0.4), sigma=(0.1, 4.0)),
    }
)


def batch_of_everything(b):
    sizes = np.full(b, 100)
    params = ViewPlan(EVERYTHING, 3).params(0, np.arange(b), sizes, sizes)
    crops = {
        name: crops_of_group(b, group.count, group.size, seed=i)
        for i, (name, group) in enumerate(EVERYTHING.groups.items())
    }
    return crops, params


def crops_of_group(b, n, size, seed):
    return crops(b * n, size, seed).unflatten(0, (b, n))


def test_a_sample_has_the_same_bits_in_every_batch():
    whole, params = batch_of_everything(6)
    together = augment(whole, params, EVERYTHING, MEAN, STD)
    for i in (0, 3, 5):
        alone = augment(
            {k: v[i : i + 1] for k, v in whole.items()}, params.samples(slice(i, i + 1)), EVERYTHING, MEAN, STD
        )
        for name, views in alone.items():
            assert torch.equal(views[0], together[name][i]), name


def test_the_way_of_a_gpu_gives_the_views_of_the_sparse_one():
    whole, params = batch_of_everything(12)
    sparse = augment(whole, params, EVERYTHING, (0.0,) * 3, (1.0,) * 3)
    assert set(np.unique(params.rand_op)) == set(range(len(OPERATIONS) + 1))  # every operation is in it
    for name in EVERYTHING.groups:
        difference = (dense_views(whole, params, name).view(sparse[name].shape) - sparse[name]).abs() * 255
        # Equalize and solarize are steps: where the rounding of the two differs, a pixel may fall on either side.
        assert torch.quantile(difference.flatten(), 0.999) < 0.01
        assert (difference > 0.01).float().mean() < 1e-3


def dense_views(crops, params, name, run=as_it_is):
    """The views of one group, [b n, 3, S, S] in 0..1, the way that a GPU goes."""
    scaling = torch.tensor([[0.0] * 3, [1.0] * 3])[..., None, None]
    group, which = EVERYTHING.groups[name], EVERYTHING.slices()[name]
    return augment_batch(crops[name].flatten(0, 1), params.views(which), group, scaling, run)


def test_a_view_made_the_way_of_a_gpu_depends_on_no_other():
    whole, params = batch_of_everything(6)
    for name in EVERYTHING.groups:
        together = dense_views(whole, params, name).view(whole[name].shape)
        for i in (0, 5):
            one = slice(i, i + 1)
            alone = dense_views({k: v[one] for k, v in whole.items()}, params.samples(one), name)
            # torch rounds the mean of a view's colour differently in batches of other sizes
            assert torch.quantile((alone - together[i]).abs().flatten() * 255, 0.999) < 0.001, name


def test_the_way_of_a_gpu_compiles_once_for_each_group_and_shape_and_gives_the_same():
    """By the compiler's front end alone, whose graph runs the same operations: equal bits."""
    counter = CompileCounterWithBackend("eager")
    run = Compiler(counter)
    for b in (2, 2, 3):
        whole, params = batch_of_everything(b)
        for name in EVERYTHING.groups:
            assert torch.equal(dense_views(whole, params, name, run), dense_views(whole, params, name))
    assert run.works
    # The global group has a graph on each side of RandAugment, the local one is one graph; for two numbers of samples.
    assert counter.frame_count == 2 * (2 + 1)
    # A constant inside would be copied to a GPU in each call, and the host wait for it.
    nodes = [node for graph in counter.graphs for node in graph.graph.nodes]
    assert len(nodes) > 100
    assert not [node for node in nodes if node.op == "get_attr" or node.target is torch.tensor]


@pytest.mark.slow
def test_compiled_to_the_end_the_way_of_a_gpu_gives_the_same_but_for_rounding():
    """Compiled for a CPU. A fused multiply-add rounds once where two operations round twice, so values below 1 differ
    by a few times 2^-24; solarize and equalize are steps, hence the quantile, and the bound of the two ways.
    """
    whole, params = batch_of_everything(2)
    run = Compiler()
    difference = (dense_views(whole, params, "global", run) - dense_views(whole, params, "global")).abs() * 255
    assert torch.quantile(difference.flatten(), 0.999) < 0.01
    assert run.works


def test_a_recipe_without_blur_and_solarize_gives_the_views_of_one_that_could_have_them():
    """They are left out of the computation for the whole group."""
    group = ViewGroup(count=1, size=24, scale=(0.5, 1.0), blur=0.0, solarize=0.0)
    x = crops(4, 24)
    params = ViewPlan(ViewRecipe(groups={"view": group}), 1).params(0, np.arange(4), np.full(4, 50), np.full(4, 50))
    scaling = torch.tensor([[0.0] * 3, [1.0] * 3])[..., None, None]
    could = group.model_copy(update={"blur": 0.5, "solarize": 0.5})
    assert torch.equal(augment_batch(x, params, group, scaling), augment_batch(x, params, could, scaling))


def test_erasing_blackens_its_rectangle_and_nothing_else():
    x = crops(1)
    out = run(x, erase=np.array([3, 5, 7, 11], np.int32))
    expected = x.float()
    expected[..., 3:10, 5:16] = 0
    assert torch.allclose(out, expected, atol=1e-3)
