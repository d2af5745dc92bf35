"""Distillation losses against the papers' formulas, term by term in float64."""

import itertools

import numpy as np
import pytest
import torch

from trocar.ssl.losses import (
    cosine_distance,
    in_groups,
    relational_angle,
    relational_distance,
    whitened_smooth_l1,
)


def features(n=7, student=5, teacher=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, student)) + 3, 10 * rng.normal(size=(n, teacher)) - 20


def tensors(*arrays, grad=False):
    return [torch.tensor(x, dtype=torch.float32, requires_grad=grad) for x in arrays]


def huber(d):
    d = abs(d)
    return d**2 / 2 if d <= 1 else d - 0.5


def published_distance(student, teacher):
    pairs = list(itertools.permutations(range(len(student)), 2))
    ours = np.array([np.linalg.norm(student[i] - student[j]) for i, j in pairs])
    theirs = np.array([np.linalg.norm(teacher[i] - teacher[j]) for i, j in pairs])
    return np.mean([huber(a - b) for a, b in zip(ours / ours.mean(), theirs / theirs.mean(), strict=True)])


def published_angle(student, teacher):
    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triples = list(itertools.permutations(range(len(student)), 3))
    return np.mean([huber(cosine(student, *t) - cosine(teacher, *t)) for t in triples])


def test_cosine_distance_is_the_mean_of_one_minus_the_cosine():
    student, teacher = features(student=9)
    cosines = (student * teacher).sum(1) / np.linalg.norm(student, axis=1) / np.linalg.norm(teacher, axis=1)
    assert float(cosine_distance(*tensors(student, teacher))) == pytest.approx(1 - cosines.mean(), rel=1e-5)


@pytest.mark.parametrize("beta", [2.0, 0.5])
def test_smooth_l1_is_taken_to_the_standardised_teacher(beta):
    student, teacher = features(student=9)
    student -= 3
    target = (teacher - teacher.mean(1, keepdims=True)) / np.sqrt(teacher.var(1, keepdims=True) + 1e-5)
    d = np.abs(student - target)
    expected = np.where(d < beta, d**2 / (2 * beta), d - beta / 2).mean()
    assert (d < beta).any()
    assert (d > beta).any()
    assert float(whitened_smooth_l1(*tensors(student, teacher), beta)) == pytest.approx(expected, rel=1e-5)


def test_distance_loss_is_the_published_one_over_all_pairs():
    student, teacher = features()
    student[0] += 40  # beyond the quadratic part
    ours = relational_distance(*tensors(student, teacher))
    assert float(ours) == pytest.approx(published_distance(student, teacher), rel=1e-5)


def test_angle_loss_is_the_published_one_over_all_triples():
    student, teacher = features()
    teacher[0] += 500  # angles of nearly 0 and 180 degrees
    ours = relational_angle(*tensors(student, teacher))
    assert float(ours) == pytest.approx(published_angle(student, teacher), rel=1e-5)


def test_leading_axes_are_batches_of_their_own():
    batches = [features(seed=seed) for seed in (1, 2)]
    student, teacher = (torch.tensor(np.stack(x), dtype=torch.float32) for x in zip(*batches, strict=True))
    for loss, published in ((relational_distance, published_distance), (relational_angle, published_angle)):
        expected = np.mean([published(*batch) for batch in batches])
        assert float(loss(student, teacher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
def test_relations_know_no_scale_rotation_or_shift(loss):
    teacher = torch.tensor(features()[1], dtype=torch.float32)
    rotation = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0)))[0]
    assert float(loss(0.1 * teacher @ rotation + 4, teacher)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("loss", [cosine_distance, whitened_smooth_l1, relational_distance, relational_angle])
def test_only_the_student_takes_a_gradient_and_it_is_computed_in_float32(loss):
    student, teacher = tensors(*features(student=9), grad=True)
    value = loss(student, teacher)
    value.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student, teacher), value)


@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
def test_equal_frames_do_not_blow_up_the_gradient(loss):
    student, teacher = features()
    student[1], teacher[1] = student[0], teacher[0]
    student, teacher = tensors(student, teacher, grad=True)
    loss(student, teacher).backward()
    assert student.grad.norm() < 10
    # nor do nearly equal ones, whose angles are rounding
    close = student.detach().clone()
    close[1, 0] += 1e-6
    close.requires_grad_()
    loss(close, teacher).backward()
    assert close.grad.norm() < 10


def test_groups_are_consecutive_samples_and_leave_the_rest_out():
    x = torch.arange(11.0)[:, None]
    assert in_groups(x, 4)[..., 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert in_groups(x, 32)[..., 0].tolist() == [list(range(11))]
