"""Block masks against the published generator, fed with the same random numbers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from trocar.core.random import uniform, words
from trocar.ssl.blocks.patches import _KEY, _TRIES, MaskedPatches, Masking, block_masks

SEEDS = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)


def published_mask(draws, target, height, width, smallest=4, aspect=0.3):
    """MaskingGenerator of BEiT and DINOv2: blocks, each tried ten times, until `target` patches are masked."""
    mask, draws = np.zeros((height, width), dtype=bool), iter(draws)
    while mask.sum() < target:
        room, grown = target - mask.sum(), False
        for _ in range(10):
            area, shape, y, x = next(draws)
            size = smallest + area * (room - smallest)
            ratio = math.exp(math.log(aspect) + shape * (math.log(1 / aspect) - math.log(aspect)))
            h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
            if w < width and h < height:
                top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
                block = mask[top : top + h, left : left + w]
                if 0 < h * w - block.sum() <= room:
                    block[:] = grown = True
                    break
        if not grown:
            break
    return mask


@pytest.mark.parametrize(("height", "width"), [(14, 14), (16, 9), (4, 4)])
def test_masks_are_those_of_the_published_generator(height, width):
    seeds = SEEDS[:60]
    masks = block_masks(seeds, height, width, Masking(probability=1.0))
    for seed, mask in zip(seeds, masks, strict=True):
        target = int(height * width * (0.1 + 0.4 * uniform(words(_KEY, 2, seed, 0))[1]))
        draws = uniform(words(_KEY, 4 * _TRIES, seed, 1)).reshape(-1, 4)
        assert np.array_equal(mask, published_mask(draws, target, height, width))


def test_half_of_the_views_are_masked_by_a_share_between_the_bounds():
    shares = block_masks(SEEDS, 16, 16, Masking()).mean((1, 2))
    masked = shares[shares > 0]
    assert len(masked) / len(SEEDS) == pytest.approx(0.5, abs=0.04)
    assert masked.max() <= 0.5
    assert masked.mean() == pytest.approx(0.3, abs=0.015)
    assert np.quantile(masked, 0.01) > 0.09


def test_a_mask_depends_on_its_own_seed_alone():
    many = block_masks(SEEDS[:12].reshape(6, 2), 7, 9, Masking())
    assert many.shape == (6, 2, 7, 9)
    for index in np.ndindex(6, 2):
        alone = block_masks(SEEDS[:12].reshape(6, 2)[index][None], 7, 9, Masking())
        assert np.array_equal(alone[0], many[index])
    assert not any(np.array_equal(a, b) for a, b in pairwise(block_masks(SEEDS[:9], 14, 14, Masking(probability=1))))


def test_no_probability_or_no_ratio_masks_nothing():
    assert not block_masks(SEEDS[:50], 8, 8, Masking(probability=0)).any()
    assert not block_masks(SEEDS[:50], 8, 8, Masking(ratio=(0, 0))).any()
    assert block_masks(SEEDS[:0].reshape(0, 2), 8, 8, Masking()).shape == (0, 2, 8, 8)


def test_a_ratio_out_of_order_is_refused():
    with pytest.raises(ValueError, match="expected 0 <= low <= high <= 1"):
        Masking(ratio=(0.5, 0.1))


def test_masked_patches_are_weighted_to_a_mean_over_each_view():
    masks = np.zeros((3, 2, 3), dtype=bool)
    masks[0, 1, :2] = masks[2] = True
    found = MaskedPatches.of(masks, torch.device("cpu"))
    assert found.index.tolist() == [3, 4, 12, 13, 14, 15, 16, 17]
    assert found.weight.tolist() == pytest.approx([1 / 2] * 2 + [1 / 6] * 6)
    assert torch.equal(found.mask, torch.from_numpy(masks).flatten(1))
    patches = torch.arange(18.0).view(3, 6, 1)
    assert found.select(patches).flatten().tolist() == found.index.tolist()
