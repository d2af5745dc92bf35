"""MoCo v3 as a method: symmetric loss of two views, predictor, momentum encoder, the fixed patch projection."""

import copy

import numpy as np
import pytest
import timm
import torch
from method_factory import DATA, START, build, convolutional, some_views
from torch import nn

from trocar.ssl.blocks.heads import unit
from trocar.ssl.engine.method import Progress
from trocar.ssl.methods import default
from trocar.ssl.methods.moco_v3 import freeze_patch_projection

HEAD = {"layers": [16, 8], "batch_norm": True, "last_batch_norm": True}


def config(**changes):
    return default("moco_v3", views={"size": 16}, head=HEAD, predictor=HEAD, **changes)


def views_of(b=4, seed=0):
    return some_views(config(), b, seed)


def test_defaults_are_the_published_recipe_for_resnet_50():
    published = default("moco_v3")
    views = published.views
    assert (views.count, views.size, views.scale, views.flip) == (2, 224, (0.2, 1.0), 0.5)
    jitter = views.jitter
    assert (jitter.p, jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.8, 0.4, 0.4, 0.2, 0.1)
    assert (views.per_view("grey"), views.sigma) == ([0.2] * 2, (0.1, 2.0))
    assert (views.per_view("blur"), views.per_view("solarize")) == ([1.0, 0.1], [0.0, 0.2])
    assert (published.temperature, published.momentum, published.freeze_patch_embed) == (1.0, 0.99, True)
    # ResNet's predictor ends without a batch norm, the projector with one
    for head, last in ((published.head, True), (published.predictor, False)):
        assert (head.layers, head.relu, head.batch_norm, head.last_batch_norm) == ((4096, 256), 1, True, last)


def test_the_head_of_three_layers_has_batch_norm_in_all_and_no_biases():
    head = default("moco_v3", head={**HEAD, "layers": [16, 16, 8], "relu": 2}).head.build(6)
    kinds = [type(layer) for layer in head.layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear, nn.BatchNorm1d]
    assert [layer.affine for layer in head.layers if isinstance(layer, nn.BatchNorm1d)] == [True, True, False]
    assert all(layer.bias is None for layer in head.layers if isinstance(layer, nn.Linear))


def published_contrast(queries, keys, temperature):
    """Algorithm 1's `ctr` in float64: 2 t times the cross-entropy of the batch's similarities with the diagonal."""
    logits = queries @ keys.T / temperature
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -2 * temperature * np.diag(log_p).mean()


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_loss_contrasts_each_view_s_queries_with_the_other_view_s_keys(temperature):
    moco, views = build(config(temperature=temperature)).eval(), views_of()
    with torch.no_grad():
        for p in moco.teacher_head.parameters():
            p.mul_(0.5)  # keys are not the projections of the queries
        first, second = views["global"].unbind(1)
        queries = [unit(moco.predictor(moco.student_head(moco.student(x)))).double().numpy() for x in (first, second)]
        keys = [unit(moco.teacher_head(moco.teacher(x))).double().numpy() for x in (first, second)]
    expected = sum(published_contrast(queries[i], keys[1 - i], temperature) for i in range(2))
    assert float(moco.loss(views, START)["loss"].detach()) == pytest.approx(expected, rel=1e-5)


def test_each_view_has_batch_statistics_of_its_own():
    moco = build(config()).train()
    sizes = []
    for part in (moco.student, moco.teacher, moco.predictor):
        part.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    moco.loss(views_of(b=4), START)
    assert sizes == [4] * 6


def test_gradients_flow_to_the_query_side_only():
    moco = build(config()).train()
    moco.loss(views_of(), START)["loss"].backward()
    for part in (moco.student, moco.student_head, moco.predictor):
        assert all(p.grad is not None for p in part.parameters())
    for part in (moco.teacher, moco.teacher_head):
        assert not any(p.requires_grad for p in part.parameters())
    assert moco.exported is moco.student


def test_loss_changes_norm_statistics_only_and_the_momentum_rises_to_one():
    moco = build(config()).train()
    before = copy.deepcopy(moco.state_dict())
    moco.loss(views_of(), START)
    changed = {k for k, v in moco.state_dict().items() if not torch.equal(before[k], v)}
    assert changed
    assert all("running_" in k or "num_batches" in k for k in changed)
    with torch.no_grad():
        for p in moco.parameters():
            p.add_(float(p.requires_grad))
    # 1 - (1 - m) (1 + cos(pi k / K)) / 2, a half-cycle cosine
    for step, momentum in ((0, 0.99), (5, 0.995), (10, 1.0)):
        teacher = moco.teacher[0].weight.clone()
        assert moco.after_step(Progress(step, 10, 5))["momentum"] == pytest.approx(momentum)
        expected = momentum * teacher + (1 - momentum) * moco.student[0].weight
        assert torch.allclose(moco.teacher[0].weight, expected, atol=1e-6)
    assert not torch.equal(moco.teacher_head.layers[0].weight, before["teacher_head.layers.0.weight"])


def vit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=6, depth=1, num_heads=1, num_classes=0
        )


@pytest.mark.parametrize("frozen", [True, False])
def test_the_patch_projection_of_a_transformer_stays_as_it_starts_if_asked(frozen):
    moco = build(config(freeze_patch_embed=frozen), vit).train()
    moco.loss(views_of(), START)["loss"].backward()
    without = {name for name, p in moco.student.named_parameters() if p.grad is None}
    assert without == ({"patch_embed.proj.weight", "patch_embed.proj.bias"} if frozen else set())


def test_a_convolutional_backbone_trains_whole():
    for network in (convolutional(), timm.create_model("convnext_atto", num_classes=0)):
        freeze_patch_projection(network)
        assert all(p.requires_grad for p in network.parameters())


def test_auto_momentum_suits_the_length_of_the_run():
    assert default("moco_v3", momentum="auto").resolved(DATA).momentum == 0.99
    assert default("moco_v3").warnings(DATA) == []
