"""DINO against the published definition, worked out in float64 numpy from the paper's equations."""

import copy
import math

import numpy as np
import pytest
import torch
from method_factory import START, build, some_views
from torch import nn

from trocar.ssl.blocks.heads import DinoHead
from trocar.ssl.blocks.teachers import update_teacher
from trocar.ssl.engine.method import Progress
from trocar.ssl.engine.optimizer import OptimConfig, clip_gradients
from trocar.ssl.losses import (
    _products,
    _products_by_sample,
    balanced_probabilities,
    dino_loss,
    entropy,
    prototypes_used,
    teacher_probabilities,
    update_centre,
)
from trocar.ssl.methods.dino import DinoConfig, DinoViews


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def published_loss(student, teacher, centre, student_temp, teacher_temp):
    """Eq. 3 over all pairs of different views: student [V, b, K], teacher logits [T, b, K], float64."""
    q = softmax((teacher - centre) / teacher_temp)
    log_p = np.log(softmax(student / student_temp))
    terms = [-(q[t] * log_p[v]).sum(-1).mean() for t in range(len(q)) for v in range(len(log_p)) if v != t]
    return np.mean(terms), len(terms)


@pytest.mark.parametrize(("views", "terms"), [(10, 18), (2, 2), (6, 10)])
def test_loss_is_the_mean_cross_entropy_over_pairs_of_different_views(views, terms):
    rng = np.random.default_rng(views)
    student, teacher, centre = rng.normal(size=(views, 5, 17)), rng.normal(size=(2, 5, 17)), rng.normal(size=17)
    expected, count = published_loss(student, teacher, centre, 0.1, 0.04)
    q = teacher_probabilities(torch.tensor(teacher).float(), torch.tensor(centre).float(), 0.04)
    ours = dino_loss(torch.tensor(student, dtype=torch.float32), q, 0.1)
    assert count == terms
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_uniform_outputs_give_ln_k():
    student, teacher = torch.zeros(4, 3, 64), torch.full((2, 3, 64), 1 / 64)
    assert float(dino_loss(student, teacher, 0.1)) == pytest.approx(math.log(64), rel=1e-6)
    assert float(entropy(teacher)) == pytest.approx(math.log(64), rel=1e-6)


def test_centre_is_the_moving_average_of_the_teacher_s_mean_logit():
    rng = np.random.default_rng(0)
    centre, logits = rng.normal(size=9), rng.normal(size=(2, 4, 9))
    expected = 0.9 * centre + 0.1 * logits.mean((0, 1))
    ours = update_centre(torch.tensor(centre), torch.tensor(logits).mean((0, 1)), 0.9)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def config(**changes):
    views = DinoViews.model_validate({"global": {"size": 16}, "local": {"count": 3, "size": 8}})
    return DinoConfig(views=views, head=DinoHead(prototypes=12, hidden=16, bottleneck=8), **changes)


def method(**changes):
    return build(config(**changes))


def views_of(b=4, seed=0):
    return some_views(config(), b, seed)


def test_defaults_are_the_published_recipe():
    published = DinoConfig()
    assert (published.head.prototypes, published.head.hidden, published.head.bottleneck) == (65536, 2048, 256)
    assert (published.student_temperature, published.teacher_temperature, published.momentum) == (0.1, 0.04, 0.996)
    assert published.centre_momentum == 0.9
    first, local = published.views.global_, published.views.local
    assert (first.count, first.size, first.scale) == (2, 224, (0.4, 1.0))
    assert (first.per_view("blur"), first.per_view("solarize")) == ([1.0, 0.1], [0.0, 0.2])
    assert (local.count, local.size, local.scale) == (8, 96, (0.05, 0.4))
    assert local.per_view("blur") == [0.5] * 8
    for group in (first, local):
        assert group.per_view("grey") == [0.2] * group.count
        assert group.flip == 0.5
        assert group.sigma == (0.1, 2.0)
        jitter = group.jitter
        assert (jitter.p, jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (
            0.8,
            0.4,
            0.4,
            0.2,
            0.1,
        )


def test_teacher_starts_as_the_student_and_takes_no_gradient():
    dino = method()
    for ours, theirs in zip(dino.student.parameters(), dino.teacher.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not theirs.requires_grad
    for ours, theirs in zip(dino.student_head.parameters(), dino.teacher_head.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not theirs.requires_grad


def test_multi_crop_feeds_global_views_to_the_teacher_and_all_to_the_student():
    dino = method().train()
    views = views_of()
    seen = {"student": [], "teacher": []}
    dino.student.register_forward_pre_hook(lambda _, x: seen["student"].append(tuple(x[0].shape)))
    dino.teacher.register_forward_pre_hook(lambda _, x: seen["teacher"].append(tuple(x[0].shape)))
    losses = dino.loss(views, START)
    assert seen == {"student": [(8, 3, 16, 16), (12, 3, 8, 8)], "teacher": [(8, 3, 16, 16)]}

    def logits(backbone, head, x):
        flat = x.transpose(0, 1).flatten(0, 1)
        return head(backbone(flat)).view(x.shape[1], x.shape[0], -1).detach().double().numpy()

    fresh = method().train()
    student = np.concatenate([logits(fresh.student, fresh.student_head, x) for x in views.crops.values()])
    teacher = logits(fresh.teacher, fresh.teacher_head, views["global"])
    expected, _ = published_loss(student, teacher, np.zeros(12), 0.1, 0.04)
    assert float(losses["loss"].detach()) == pytest.approx(expected, rel=1e-4)


def test_loss_changes_no_state_but_norm_statistics_and_after_step_changes_teacher_and_centre():
    dino = method(momentum=0.9).train()
    before = copy.deepcopy(dino.state_dict())
    dino.loss(views_of(), START)
    after_loss = dino.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after_loss[k])}
    assert changed
    assert all("running_" in k or "num_batches" in k for k in changed)
    with torch.no_grad():
        for p in dino.student.parameters():
            p.add_(1.0)
    dino.after_step(START)
    assert not torch.equal(dino.centre, before["centre"])
    expected = 0.9 * before["teacher.0.weight"] + 0.1 * dino.student[0].weight
    assert torch.allclose(dino.teacher[0].weight, expected)


def test_a_refused_step_leaves_no_trace_in_the_centre():
    dino = method().train()
    dino.loss(views_of(seed=1), START)
    dino.forget()
    dino.loss(views_of(seed=2), START)
    dino.after_step(START)
    only_second = method().train()
    only_second.loss(views_of(seed=2), START)
    only_second.after_step(START)
    # the teacher's batch statistics are those of each batch, so the centre must be that of the second batch alone
    assert torch.equal(dino.centre, only_second.centre)


def test_micro_batches_give_the_centre_of_the_whole_batch():
    whole, parts = method().eval(), method().eval()
    views = views_of(8)
    whole.loss(views, START)
    whole.after_step(START)
    for i in (0, 4):
        parts.loss(views.split(2)[i // 4], START)
    parts.after_step(START)
    assert torch.allclose(whole.centre, parts.centre, atol=1e-6)


def test_the_last_layer_is_frozen_for_the_first_epoch_only():
    dino = method(freeze_last_layer="1 epoch").train()
    for step, frozen in ((0, True), (4, True), (5, False)):
        progress = Progress(step, 10, 5)
        dino.zero_grad(set_to_none=True)
        dino.loss(views_of(), progress)["loss"].backward()
        dino.gradients_ready(progress)
        assert (dino.student_head.last_layer.weight_v.grad is None) == frozen
        assert dino.student[0].weight.grad is not None


def test_prototypes_have_unit_length_with_norm_last_layer():
    dino = method()
    dino.student_head(torch.zeros(1, 6))  # weight normalisation computes the weight in forward
    weight = dino.student_head.last_layer.weight
    assert torch.allclose(weight.norm(dim=1), torch.ones(12), atol=1e-6)
    assert not dino.student_head.last_layer.weight_g.requires_grad


def test_ema_is_exact_in_float64():
    teacher, student = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    expected = {k: 0.97 * v + 0.03 * student.state_dict()[k] for k, v in copy.deepcopy(teacher.state_dict()).items()}
    update_teacher(teacher, student, 0.97)
    for k, v in teacher.state_dict().items():
        assert torch.allclose(v, expected[k], rtol=1e-14)


def test_clipping_is_per_parameter_as_in_the_reference_or_global():
    def gradients(clip_by):
        parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
        parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.5])
        norm = clip_gradients(parameters, OptimConfig(clip=1.0, clip_by=clip_by))
        return float(norm), [p.grad for p in parameters]

    norm, (first, second) = gradients("parameter")
    assert norm == pytest.approx(math.sqrt(25.25))
    assert torch.allclose(first, torch.tensor([0.6, 0.8]), atol=1e-5)
    assert second.item() == 0.5
    _, (first, second) = gradients("global")
    assert second.item() == pytest.approx(0.5 / math.sqrt(25.25), rel=1e-5)


def test_the_loss_is_computed_in_float32_under_autocast():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 4, 32, generator=generator), torch.randn(2, 4, 32, generator=generator)
    q = teacher_probabilities(teacher, torch.zeros(32), 0.04)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dino_loss(student, teacher_probabilities(teacher, torch.zeros(32), 0.04), 0.1)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, dino_loss(student, q, 0.1))


def published_sinkhorn(logits, temperature, iterations=3):
    """Algorithm of SwAV's appendix, logits [n, K], in float64: alternate prototypes and samples to equal sums."""
    q = np.exp(logits / temperature).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * len(q)
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def test_sinkhorn_balances_the_prototypes_over_both_teacher_views():
    logits = np.random.default_rng(3).uniform(-1, 1, size=(2, 6, 5))
    ours = balanced_probabilities(torch.tensor(logits).float(), 0.05).numpy()
    expected = published_sinkhorn(logits.reshape(12, 5), 0.05).reshape(2, 6, 5)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(ours.sum(-1), 1, rtol=1e-5)


def test_sinkhorn_is_what_the_method_takes_as_targets_when_asked():
    dino, mean = method(centring="sinkhorn").eval(), method().eval()
    for both in (dino, mean):
        with torch.no_grad():  # one prototype that everything is near to
            both.teacher_head.last_layer.weight_v.mul_(0.01)
            both.teacher_head.last_layer.weight_v[0] += 1
    views = views_of()
    assert float(dino.loss(views, START)["prototypes_used"]) > 1.5 * float(mean.loss(views, START)["prototypes_used"])


def test_prototypes_in_use_are_counted_over_the_batch():
    one, two = torch.eye(8)[[0, 0, 0, 0]], torch.eye(8)[[0, 1, 0, 1]]
    assert float(prototypes_used(one[None])) == pytest.approx(1)
    assert float(prototypes_used(two[None])) == pytest.approx(2)
    assert float(prototypes_used(torch.full((2, 3, 8), 1 / 8))) == pytest.approx(8)


def test_products_sample_by_sample_are_those_at_once_with_their_gradients():
    """The form for GPUs, on a CPU: equal within the rounding of a sum of 5 x 300 terms."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.rand(2, 5, 300, generator=generator)
    found = []
    for form in (_products, _products_by_sample):
        log_p = torch.randn(6, 5, 300, generator=torch.Generator().manual_seed(1)).requires_grad_()
        sums = form(teacher, log_p)
        (sums * torch.arange(12.0).view(2, 6)).sum().backward()
        found.append((sums.detach(), log_p.grad))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-3)
