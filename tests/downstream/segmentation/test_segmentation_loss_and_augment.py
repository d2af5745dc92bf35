"""The loss by hand and on ignored pixels; image and mask change together."""

from __future__ import annotations

import math

import pytest
import torch

from trocar.downstream.segmentation.loss import IGNORE, segmentation_loss
from trocar.downstream.segmentation.training_pictures import augment, joint_augmentation


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def labels() -> torch.Tensor:
    target = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    target[:, :2] = IGNORE
    return target


def test_ignored_pixels_have_no_gradient_and_the_others_have() -> None:
    x = logits()
    segmentation_loss(x, labels(), dice=1.0).backward()
    assert x.grad is not None
    assert (x.grad[:, :, :2] == 0).all()
    assert (x.grad[:, :, 2:].abs().sum((0, 1)) > 0).all()


def test_a_batch_without_a_labelled_pixel_costs_nothing() -> None:
    x = logits()
    loss = segmentation_loss(x, torch.full((2, 4, 4), IGNORE))
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


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Images that show their mask: each label is a grey value."""
    masks = torch.zeros(6, 32, 48, dtype=torch.uint8)
    masks[:, 8:20, 5:25] = 1
    masks[:, 22:30, 30:44] = 2
    masks[:, :3] = IGNORE
    grey = torch.tensor([40, 120, 200] + [0] * 252 + [0], dtype=torch.uint8)
    return grey[masks.long()][:, None].expand(-1, 3, -1, -1).contiguous(), masks


def test_the_mask_follows_the_image() -> None:
    images, masks = pairs()
    transform = joint_augmentation((32, 48))
    changed, labels = augment(images, masks, transform, seed=3)
    assert changed.shape == images.shape
    assert labels.shape == masks.shape
    assert set(labels.unique().tolist()) <= {0, 1, 2, IGNORE}
    assert not torch.equal(labels, masks)
    for image, label in zip(changed, labels, strict=True):
        grey = image.float().mean(0)
        middle = {c: grey[label == c].median().item() for c in (0, 1, 2)}
        assert middle[0] + 30 < middle[1]
        assert middle[1] + 30 < middle[2]
        # Away from edges, that resizing blurs, every pixel is nearest to its own label's grey.
        nearest = torch.stack([(grey - middle[c]).abs() for c in (0, 1, 2)]).argmin(0)
        known = label != IGNORE
        assert (nearest[known] == label[known]).float().mean() > 0.9


def test_crops_of_wide_images_are_not_stretched_on_average() -> None:
    size = (27, 48)
    crop = joint_augmentation(size).transforms[0]
    images = [torch.zeros(3, *size)]
    torch.manual_seed(0)
    drawn = [crop.make_params(images) for _ in range(200)]
    stretch = torch.tensor([d["width"] / d["height"] / (48 / 27) for d in drawn])
    assert 0.7 < stretch.min() < 0.85
    assert 1.15 < stretch.max() < 1.4
    assert stretch.log().mean().abs() < 0.03
    assert min(d["width"] * d["height"] / (27 * 48) for d in drawn) > 0.55


def test_the_draws_follow_from_the_seed_and_leave_torch_alone() -> None:
    images, masks = pairs()
    transform = joint_augmentation((32, 48))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = augment(images, masks, transform, seed=1)
    assert torch.equal(torch.rand(1), expected)
    again, other = augment(images, masks, transform, seed=1), augment(images, masks, transform, seed=2)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1][0], first[1][1])  # each image has its own draw
