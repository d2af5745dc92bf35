"""Distillation from a frozen teacher: what is compared with what, and where the gradient goes. And augmented, it is
DINO with more student views: which, of which frames, and in how many terms.
"""

import copy

import numpy as np
import pytest
import torch
from data_factory import make_catalog
from method_factory import START, build, some_views
from torch import nn

from trocar.core.config import validate
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard
from trocar.ssl.blocks.heads import DinoHead
from trocar.ssl.losses import (
    cosine_distance,
    dino_loss,
    relational_angle,
    relational_distance,
    teacher_probabilities,
    whitened_smooth_l1,
)
from trocar.ssl.methods.dino import DinoConfig
from trocar.ssl.methods.distillation import AugmentedDistillationConfig, DistillationConfig
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig


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


SMALL = {
    "global": {"size": 16},
    "local": {"size": 8, "count": 3},
    "neighbour_global": {"size": 16},
    "neighbour_local": {"size": 8},
}


def augmented(neighbours=2, **views):
    head = DinoHead(prototypes=12, hidden=16, bottleneck=8)
    return AugmentedDistillationConfig.model_validate(
        {"views": {**SMALL, **views}, "head": head, "neighbours": {"count": neighbours}}
    )


def test_defaults_are_lemonfm_s():
    published = AugmentedDistillationConfig()
    recipe = published.recipe()
    counts = {name: (group.count, group.size, group.scale) for name, group in recipe.groups.items()}
    assert counts == {
        "global": (2, 224, (0.4, 1.0)),
        "local": (8, 96, (0.05, 0.4)),
        "neighbour_global": (2, 224, (0.4, 1.0)),
        "neighbour_local": (4, 96, (0.05, 0.4)),
    }
    blur = {"global": [1.0, 0.1], "local": [0.5] * 8, "neighbour_global": [0.5] * 2, "neighbour_local": [0.5] * 4}
    for name, group in recipe.groups.items():
        jitter = group.jitter
        assert (jitter.p, jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.8, 0.4, 0.4, 0.2, 0)
        assert group.per_view("grey") == [0.2] * group.count
        assert group.flip == 0.5
        assert group.per_view("blur") == blur[name]
        assert group.per_view("solarize") == ([0.0, 0.2] if name == "global" else [0.0] * group.count)
    source = published.neighbour_source()
    assert (source.source, source.offsets_s) == ("temporal", (-2, -1, 1, 2))
    assert DinoConfig().neighbour_source() is None


def test_each_neighbour_gives_one_global_and_two_local_views():
    recipe = AugmentedDistillationConfig().recipe()
    frame = {name: recipe.frame[which].tolist() for name, which in recipe.slices().items()}
    assert frame == {
        "global": [0, 0],
        "local": [0] * 8,
        "neighbour_global": [1, 2],
        "neighbour_local": [1, 1, 2, 2],
    }
    three = augmented(3, neighbour_local={"size": 8, "count": 2, "blur": [0.1, 0.9]}).recipe()
    assert three.frames == 4
    assert three.groups["neighbour_local"].frames() == [1, 1, 2, 2, 3, 3]
    assert three.groups["neighbour_local"].per_view("blur") == [0.1, 0.9] * 3
    assert "neighbour_local" not in augmented(neighbour_local=None).recipe().groups


def test_a_frame_cannot_be_chosen_by_hand():
    with pytest.raises(ConfigError, match=r"views\.neighbour_global\.frame"):
        validate(AugmentedDistillationConfig, {"views": {"neighbour_global": {"frame": 2}}}, "test")


def test_thirty_terms_of_a_teacher_that_never_sees_a_neighbour():
    method = build(augmented(local={"size": 8, "count": 8})).train()
    views = some_views(augmented(local={"size": 8, "count": 8}))
    seen = []
    method.teacher.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    loss = method.loss(views, START)["loss"]
    anchors = views["global"].transpose(0, 1).flatten(0, 1)
    assert len(seen) == 1
    assert torch.equal(seen[0], anchors)

    fresh = build(augmented(local={"size": 8, "count": 8})).train()
    sizes = (["global", "neighbour_global"], ["local", "neighbour_local"])  # views of one size share batch statistics
    outputs = [
        fresh.student_head(fresh.student(torch.cat([views[n].transpose(0, 1) for n in names]).flatten(0, 1)))
        for names in sizes
    ]
    log_p = [torch.log_softmax(x.double() / 0.1, -1).view(-1, 4, 12).detach().numpy() for x in outputs]
    q = torch.softmax(fresh.teacher_head(fresh.teacher(anchors)).double() / 0.04, -1).view(2, 4, 12).detach().numpy()
    student = np.concatenate(log_p)
    assert len(student) == 16
    terms = [-(q[t] * student[v]).sum(-1).mean() for t in range(2) for v in range(16) if v != t]
    assert len(terms) == 30
    assert float(loss.detach()) == pytest.approx(np.mean(terms), rel=1e-4)


def test_the_loss_is_dino_s_on_views_put_together_by_hand():
    method = build(augmented()).eval()
    views = some_views(augmented())
    logits = [method.student_head(method.student(x)) for group in views.crops.values() for x in group.transpose(0, 1)]
    teacher = [method.teacher_head(method.teacher(x)) for x in views["global"].transpose(0, 1)]
    q = teacher_probabilities(torch.stack(teacher), method.centre, 0.04)
    assert torch.allclose(method.loss(views, START)["loss"], dino_loss(torch.stack(logits), q, 0.1), rtol=1e-5)


def test_a_run_delivers_neighbours_and_remembers_how_they_were_drawn(tmp_path):
    make_catalog(tmp_path, 2, 6)
    method = augmented().model_dump(mode="json", by_alias=True)

    def setup(**changes):
        tree = {
            "data": {"catalog": str(tmp_path), "composition": {"curate": "none"}, "backend": "torch"},
            "backbone": {"name": "resnet10t"},
            "method": {**method, **changes},
            "train": {"batch": 4, "steps": 2},
            "run": {"out": str(tmp_path / "run"), "workers": 0},
        }
        return Pretraining(validate(PretrainConfig, tree, "test"), World(), print, RunGuard())

    ours = setup()
    batch = ours.loader().batch(0)
    times, videos = ours.catalog.frames["time_s"], ours.catalog.frames["video"]
    assert batch.neighbours.shape == (4, 2)
    assert (videos[batch.neighbours] == videos[batch.rows][:, None]).all()
    assert set(np.abs(times[batch.neighbours] - times[batch.rows][:, None]).ravel()) <= {1.0, 2.0}
    assert {name: x.shape[1] for name, x in batch.views.items()} == {
        "global": 2,
        "local": 3,
        "neighbour_global": 2,
        "neighbour_local": 4,
    }
    other = setup(neighbours={"count": 2, "offsets_s": [-1, 1]})
    assert ours.identity()["recipe"]["neighbours"] != other.identity()["recipe"]["neighbours"]


def test_without_its_neighbours_it_is_dino():
    ours = build(augmented()).eval()
    views = some_views(augmented())
    plain = DinoConfig.model_validate(
        {"views": {k: v for k, v in SMALL.items() if "neighbour" not in k}, "head": augmented().head}
    )
    anchors = {name: views[name] for name in ("global", "local")}
    dino = build(plain).eval()
    only_anchors = type(views)(anchors, views.rows, views.mask_seed)
    assert torch.equal(ours.loss(only_anchors, START)["loss"], dino.loss(only_anchors, START)["loss"])
