"""The loss by hand and on ignored pixels; image and mask change together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trocar.backbones.preprocess import Preprocessing
from trocar.data.views.recipe import ViewPlan
from trocar.downstream.labels import IGNORED_PIXEL
from trocar.downstream.segmentation.train import AUGMENTATION, segmentation_loss
from trocar.downstream.training.batches import Cut, NetworkImages


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def labels() -> torch.Tensor:
    target = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    target[:, :2] = IGNORED_PIXEL
    return target


def test_ignored_pixels_have_no_gradient_and_the_others_have() -> None:
    x = logits()
    segmentation_loss(x, labels(), dice=1.0).backward()
    assert x.grad is not None
    assert (x.grad[:, :, :2] == 0).all()
    assert (x.grad[:, :, 2:].abs().sum((0, 1)) > 0).all()


def test_a_batch_without_a_labelled_pixel_costs_nothing() -> None:
    x = logits()
    loss = segmentation_loss(x, torch.full((2, 4, 4), IGNORED_PIXEL))
    loss.backward()
    assert loss == 0
    assert x.grad is not None
    assert (x.grad == 0).all()


def test_even_logits_cost_the_logarithm_of_the_classes_and_a_dice_by_hand() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.long)
    target[0, 0, 0] = 1
    even = torch.zeros(1, 2, 2, 2)
    assert segmentation_loss(even, target, dice=0.0).item() == pytest.approx(math.log(2))
    # p = 1/2 everywhere: Dice is 2 * 1.5 / (2 + 3) and 2 * 0.5 / (2 + 1).
    dice = 1 - (3 / 5 + 1 / 3) / 2
    assert segmentation_loss(even, target, dice=2.0).item() == pytest.approx(math.log(2) + 2 * dice)


def test_class_weights_weigh_the_cross_entropy() -> None:
    x = torch.zeros(1, 2, 1, 2)
    x[0, 0, 0] = 2.0
    target = torch.tensor([[[0, 1]]])
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    found = segmentation_loss(x, target, dice=0.0, weights=torch.tensor([1.0, 3.0]))
    assert found.item() == pytest.approx((right + 3 * wrong) / 4)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Images that show their mask: each label is a grey value."""
    masks = np.zeros((6, 32, 48), dtype=np.uint8)
    masks[:, 8:20, 5:25] = 1
    masks[:, 22:30, 30:44] = 2
    masks[:, :3] = IGNORED_PIXEL
    grey = np.array([40, 120, 200] + [0] * 253, dtype=np.uint8)
    return np.repeat(grey[masks][..., None], 3, axis=-1), masks


def learned_from(seed: int = 0) -> NetworkImages:
    images, masks = pairs()
    return NetworkImages(images, Preprocessing(), AUGMENTATION, seed, "cpu", masks=masks)


def cut(epoch: int, seed: int = 0) -> Cut:
    return learned_from(seed).cut(np.arange(6), epoch)


def test_the_mask_follows_the_image() -> None:
    found, (_, masks) = learned_from(), pairs()
    changed = found.cut(np.arange(6), 3)
    assert changed.masks is not None
    assert changed.params is not None
    assert changed.masks.shape == (6, 32, 48)
    assert set(changed.masks.unique().tolist()) <= {0, 1, 2, IGNORED_PIXEL}
    assert not torch.equal(changed.masks, torch.from_numpy(masks))
    assert 0 < changed.params.flip.sum() < 6
    for image, label in zip(found.finish(changed), changed.masks, strict=True):
        grey = image.mean(0)
        middle = {c: grey[label == c].median().item() for c in (0, 1, 2)}
        assert middle[0] < middle[1] < middle[2]
        # Away from edges, that resizing blurs, every pixel is nearest to its own label's grey.
        nearest = torch.stack([(grey - middle[c]).abs() for c in (0, 1, 2)]).argmin(0)
        known = label != IGNORED_PIXEL
        assert (nearest[known] == label[known]).float().mean() > 0.9


def test_crops_of_wide_images_are_not_stretched_on_average() -> None:
    height, width = 270, 480
    plan = ViewPlan(AUGMENTATION.recipe(height, width), seed=0)
    boxes = plan.params(0, np.arange(200), np.full(200, width), np.full(200, height)).boxes[:, 0]
    stretch = boxes[:, 3] / boxes[:, 2] / (width / height)
    assert 0.74 < stretch.min() < 0.85
    assert 1.15 < stretch.max() < 1.35
    assert abs(np.log(stretch).mean()) < 0.05
    assert (boxes[:, 2] * boxes[:, 3]).min() / (height * width) > 0.59


def test_the_draws_follow_from_seed_epoch_and_image_and_leave_torch_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = cut(epoch=1)
    assert torch.equal(torch.rand(1), expected)
    again, alone = cut(epoch=1), learned_from().cut(np.array([4]), 1)
    for one, same, single in zip(first.tensors(), again.tensors(), alone.tensors(), strict=True):
        assert torch.equal(one, same)
        assert torch.equal(one[4], single[0])
        assert not torch.equal(one[0], one[1])  # each image has its own draw
    for other in (cut(epoch=2), cut(epoch=1, seed=1)):
        assert not torch.equal(first.images, other.images)


def test_a_batch_knows_whether_any_of_its_pixels_has_a_label() -> None:
    images, masks = pairs()
    masks[1:] = IGNORED_PIXEL
    found = NetworkImages(images, Preprocessing(), None, 0, "cpu", masks=masks)
    assert found.cut(np.array([0, 1]), 0).labelled
    assert not found.cut(np.array([1, 2]), 0).labelled
