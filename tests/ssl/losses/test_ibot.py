import numpy as np
import pytest
import torch

from trocar.ssl.losses import ibot_loss


def published(student, teacher, mask, temperature):
    """Mean over masked patches of each view, mean over views: student, teacher [n, N, K], mask [n, N], float64."""
    scaled = student / temperature
    log_p = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    terms = -(teacher * log_p).sum(-1)
    return np.mean([terms[i][mask[i]].mean() if mask[i].any() else 0.0 for i in range(len(mask))])


def some(n=5, patches=7, prototypes=11):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(n, patches, prototypes)), rng.uniform(size=(n, patches, prototypes))
    mask = rng.uniform(size=(n, patches)) < 0.4
    mask[1] = False
    return student, teacher / teacher.sum(-1, keepdims=True), mask


def masked(student, teacher, mask):
    weight = np.repeat(1 / np.maximum(mask.sum(1), 1), mask.sum(1))
    return [torch.tensor(x, dtype=torch.float32) for x in (student[mask], teacher[mask], weight)]


def test_the_loss_is_the_mean_over_views_of_the_mean_over_their_masked_patches():
    student, teacher, mask = some()
    ours = ibot_loss(*masked(student, teacher, mask), len(mask), 0.1)
    assert float(ours) == pytest.approx(published(student, teacher, mask, 0.1), rel=1e-5)


def test_without_masked_patches_the_loss_and_its_gradient_are_zero():
    student = torch.zeros(0, 11, requires_grad=True)
    loss = ibot_loss(student, torch.zeros(0, 11), torch.zeros(0), 4, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.shape == (0, 11)


def test_the_loss_is_computed_in_float32_under_autocast():
    parts = masked(*some())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ibot_loss(*parts, 5, 0.1)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, ibot_loss(*parts, 5, 0.1))
