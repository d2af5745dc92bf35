"""Distillation from a frozen teacher: what is compared with what, and where the gradient goes."""

import copy

import pytest
import torch
from method_factory import START, build, some_views
from torch import nn

from trocar.errors import ConfigError
from trocar.ssl.losses import cosine_distance, relational_angle, relational_distance, whitened_smooth_l1
from trocar.ssl.methods.distillation import DistillationConfig


def config(b=4, **changes):
    return DistillationConfig.model_validate(
        {"teacher": {"name": "tiny"}, "views": {"size": 16, "blur": 0.0}, "angle_group": b, **changes}
    )


def method(**changes):
    return build(config(**changes))


def features(distil, views):
    """Student and teacher features [V, b, D], view by view; the tiny teacher wants the views' own normalisation."""
    x = views["global"].transpose(0, 1)
    return (torch.stack([network(view) for view in x]) for network in (distil.student, distil.teacher.network))


def test_defaults_are_two_mild_views_and_rkd_s_weights():
    published = DistillationConfig(teacher={"name": "timm:vit_base_patch16_224.dino"})
    views = published.views
    assert (views.count, views.size, views.scale, views.flip, views.blur) == (2, 224, (0.4, 1.0), 0.5, 0.0)
    jitter = views.jitter
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4, 0.4, 0.2, 0.1)
    weights = published.weights
    assert (published.feature, weights.feature, weights.distance, weights.angle) == ("cosine", 1, 1, 2)


@pytest.mark.parametrize(("kind", "feature_loss"), [("cosine", cosine_distance), ("smooth_l1", whitened_smooth_l1)])
def test_the_loss_is_the_weighted_sum_over_each_view(kind, feature_loss):
    distil = method(feature=kind, weights={"feature": 0.5, "distance": 3, "angle": 7}).eval()
    views = some_views(config())
    losses = distil.loss(views, START)
    student, teacher = features(distil, views)
    feature = torch.stack([feature_loss(distil.projector(s), t) for s, t in zip(student, teacher, strict=True)]).mean()
    distance = torch.stack([relational_distance(s, t) for s, t in zip(student, teacher, strict=True)]).mean()
    angle = torch.stack([relational_angle(s, t) for s, t in zip(student, teacher, strict=True)]).mean()
    for name, expected in (("feature", feature), ("distance", distance), ("angle", angle)):
        assert torch.allclose(losses[f"{name}_loss"], expected, rtol=1e-4)
    assert torch.allclose(losses["loss"], 0.5 * feature + 3 * distance + 7 * angle, rtol=1e-4)


def test_angles_are_taken_within_groups_of_the_batch():
    distil = method(b=4, weights={"feature": 0, "distance": 0, "angle": 1}).eval()
    views = some_views(config(), b=10)
    student, teacher = features(distil, views)
    groups = [relational_angle(student[:, at : at + 4], teacher[:, at : at + 4]) for at in (0, 4)]
    assert torch.allclose(distil.loss(views, START)["loss"], torch.stack(groups).mean(), rtol=1e-4)


def test_student_and_projector_take_the_gradient_and_the_teacher_nothing():
    distil = method(projector=[8]).train()
    frozen = copy.deepcopy(distil.teacher.network.state_dict())
    distil.loss(some_views(config()), START)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in distil.student.parameters() if p.ndim > 1)
    assert all(p.grad is not None for p in distil.projector.parameters())
    assert [tuple(layer.weight.shape) for layer in distil.projector.modules() if isinstance(layer, nn.Linear)] == [
        (8, 6),
        (10, 8),
    ]
    assert all(p.grad is None for p in distil.teacher.network.parameters())
    assert all(torch.equal(frozen[k], v) for k, v in distil.teacher.network.state_dict().items())


def test_loss_changes_norm_statistics_alone_and_after_step_nothing():
    distil = method().train()
    before = copy.deepcopy(distil.state_dict())
    distil.loss(some_views(config()), START)
    assert distil.after_step(START) == {}
    changed = {k for k, v in distil.state_dict().items() if not torch.equal(before[k], v)}
    assert changed
    assert all("running_" in k or "num_batches" in k for k in changed)


def test_the_teacher_s_weights_are_in_the_identity_but_not_in_the_checkpoint():
    distil = method()
    assert distil.identity()["teacher"].startswith("f1:")
    assert not any("teacher" in key for key in distil.state_dict())
    assert distil.exported is distil.student
    assert distil.backbones == [distil.student, distil.teacher.network]


def test_a_loss_without_weight_costs_nothing():
    relations = method(weights={"feature": 0, "distance": 1, "angle": 0})
    assert relations.projector is None
    assert set(relations.loss(some_views(config()), START)) == {"loss", "distance_loss"}
    features_only = method(weights={"feature": 1, "distance": 0, "angle": 0})
    assert set(features_only.loss(some_views(config(), b=1), START)) == {"loss", "feature_loss"}


def test_a_batch_too_small_for_triangles_says_what_to_do():
    with pytest.raises(ConfigError, match=r"a \(micro-\)batch has 2: raise train\.batch"):
        method().loss(some_views(config(), b=2), START)
    with pytest.raises(ValueError, match="one of feature, distance and angle"):
        config(weights={"feature": 0, "distance": 0, "angle": 0})


def test_a_student_of_the_teacher_s_features_is_pulled_to_them():
    distil = method().train()
    views = some_views(config(), b=8)
    optimizer = torch.optim.Adam(distil.parameters(), 0.05)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        losses = distil.loss(views, START)
        losses["loss"].backward()
        optimizer.step()
        values.append(float(losses["loss"].detach()))
    assert values[-1] < 0.5 * values[0]
