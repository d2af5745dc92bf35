"""SimCLR as a method: its recipe, its loss from views, one network that trains."""

import copy

import pytest
import torch
from method_factory import START, build, some_views

from trocar.ssl.blocks.heads import unit
from trocar.ssl.engine.method import Views
from trocar.ssl.losses import nt_xent
from trocar.ssl.methods import default

CONFIG = default("simclr", views={"size": 16}, head={"layers": [16, 8], "batch_norm": True, "last_batch_norm": True})


def test_defaults_are_the_published_recipe():
    published = default("simclr")
    views = published.views
    assert (views.count, views.size, views.scale, views.flip) == (2, 224, (0.08, 1.0), 0.5)
    jitter = views.jitter
    assert (jitter.p, jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.8, 0.8, 0.8, 0.8, 0.2)
    assert (views.per_view("grey"), views.per_view("blur"), views.sigma) == ([0.2] * 2, [0.5] * 2, (0.1, 2.0))
    assert published.temperature == 0.1
    assert (published.head.layers, published.head.batch_norm, published.head.last_batch_norm) == (
        (2048, 128),
        True,
        True,
    )


def test_the_loss_is_nt_xent_of_the_two_views_of_each_frame():
    simclr, views = build(CONFIG).eval(), some_views(CONFIG)
    with torch.no_grad():
        first, second = (unit(simclr.head(simclr.student(views["global"][:, i]))) for i in range(2))
    expected, accuracy = nt_xent(first, second, views.rows, 0.1)
    ours = simclr.loss(views, START)
    assert float(ours["loss"].detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(ours["pair_accuracy"]) == pytest.approx(float(accuracy))


def test_views_that_are_alike_are_found_and_equal_frames_are_not_told_apart():
    simclr, views = build(CONFIG).eval(), some_views(CONFIG)
    alike = {"global": views["global"][:, :1].repeat(1, 2, 1, 1, 1)}
    assert float(simclr.loss(Views(alike, views.rows, views.mask_seed), START)["pair_accuracy"]) == 1
    one_frame = Views(views.crops, torch.full((4,), 7), views.mask_seed)
    assert float(simclr.loss(one_frame, START)["loss"].detach()) == 0


def test_network_and_head_train_and_the_loss_changes_norm_statistics_only():
    simclr = build(CONFIG).train()
    before = copy.deepcopy(simclr.state_dict())
    simclr.loss(some_views(CONFIG), START)["loss"].backward()
    assert all(p.grad is not None for p in simclr.parameters())
    assert simclr.student[0].weight.grad.abs().sum() > 0
    assert simclr.after_step(START) == {}
    changed = {k for k, v in simclr.state_dict().items() if not torch.equal(before[k], v)}
    assert all("running_" in k or "num_batches" in k for k in changed)
    assert simclr.backbones == [simclr.student]
