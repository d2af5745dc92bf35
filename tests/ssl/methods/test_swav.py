"""SwAV as a method: which views give codes, what the queue holds and when it counts, and what stays still at first."""

import copy
import math

import pytest
import torch
from method_factory import DATA, START, build, some_views

from trocar.errors import ConfigError
from trocar.ssl.blocks.heads import unit
from trocar.ssl.engine.method import Progress
from trocar.ssl.losses import codes, swapped_prediction
from trocar.ssl.methods import default
from trocar.ssl.run.auto_values import DataSize

VIEWS = {"global": {"size": 16}, "local": {"count": 3, "size": 8}}


def config(**changes):
    given = {"views": VIEWS, "head": {"layers": [16, 8], "batch_norm": True}, "prototypes": 12, "queue": 0}
    return default("swav", **given | changes)


def method(**changes):
    return build(config(**changes))


def views_of(b=4, seed=0):
    return some_views(config(), b, seed)


def embeddings(swav, views):
    """[V, b, D], one view and one sample size after the other; for a method in eval mode."""
    with torch.no_grad():
        parts = [swav.head(swav.student(x[:, i])) for x in views.crops.values() for i in range(x.shape[1])]
    return unit(torch.stack(parts))


def expected_loss(swav, views, queued=None):
    scores = embeddings(swav, views) @ swav.prototypes.weight.detach().T
    targets = codes(scores[:2], None if queued is None else queued @ swav.prototypes.weight.detach().T, 0.05, 3)
    return float(swapped_prediction(scores, targets, 0.1))


def loss_of(swav, views, progress=START):
    return float(swav.loss(views, progress)["loss"].detach())


def test_defaults_are_the_published_recipe_with_a_queue():
    published = default("swav")
    assert (published.prototypes, published.temperature, published.epsilon, published.iterations) == (
        3000,
        0.1,
        0.05,
        3,
    )
    assert (published.queue, published.queue_start, published.freeze_prototypes) == (3840, "15 epochs", "1 epoch")
    assert (published.head.layers, published.head.relu, published.head.batch_norm) == ((2048, 128), 1, True)
    assert not published.head.last_batch_norm
    first, local = published.recipe().groups.values()
    assert (first.count, first.size, first.scale) == (2, 224, (0.14, 1.0))
    assert (local.count, local.size, local.scale) == (6, 96, (0.05, 0.14))
    for group in (first, local):
        jitter = group.jitter
        assert (jitter.p, jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (
            0.8,
            0.8,
            0.8,
            0.8,
            0.2,
        )
        assert (group.flip, group.sigma) == (0.5, (0.1, 2.0))
        assert group.per_view("blur") == [0.5] * group.count
        assert group.per_view("grey") == [0.2] * group.count
        assert group.per_view("solarize") == [0.0] * group.count


def test_codes_are_of_the_global_views_and_all_views_predict():
    swav, views = method().eval(), views_of()
    assert loss_of(swav, views) == pytest.approx(expected_loss(swav, views), rel=1e-5)


def test_local_views_are_optional():
    swav = method(views={"global": {"size": 16}, "local": None}).eval()
    assert list(swav.config.recipe().groups) == ["global"]
    views = some_views(swav.config)
    assert loss_of(swav, views) == pytest.approx(expected_loss(swav, views), rel=1e-5)


def test_gradients_flow_to_the_network_the_head_and_the_prototypes():
    swav = method().train()
    swav.loss(views_of(), START)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in swav.head.parameters())
    assert swav.student[0].weight.grad.abs().sum() > 0
    assert swav.prototypes.weight.grad.abs().sum() > 0
    assert swav.backbones == [swav.student]


def test_prototypes_have_unit_length_at_the_start_and_after_each_step():
    swav = method().train()
    assert torch.allclose(swav.prototypes.weight.norm(dim=1), torch.ones(12))
    swav.loss(views_of(), START)
    with torch.no_grad():
        swav.prototypes.weight.mul_(3)
    direction = swav.prototypes.weight / swav.prototypes.weight.norm(dim=1, keepdim=True)
    swav.after_step(START)
    assert torch.allclose(swav.prototypes.weight, direction)


def test_prototypes_are_frozen_at_first_and_nothing_else_is():
    swav = method(freeze_prototypes="3 steps").train()
    for step, frozen in ((0, True), (2, True), (3, False)):
        progress = Progress(step, 10, 5)
        swav.zero_grad(set_to_none=True)
        swav.loss(views_of(), progress)["loss"].backward()
        swav.gradients_ready(progress)
        assert (swav.prototypes.weight.grad is None) == frozen
        assert swav.student[0].weight.grad is not None
        assert all(p.grad is not None for p in swav.head.parameters())


def test_loss_changes_no_state_but_norm_statistics():
    swav = method(queue=4, queue_start="0 steps").train()
    before = copy.deepcopy(swav.state_dict())
    swav.loss(views_of(), START)
    changed = {k for k, v in swav.state_dict().items() if not torch.equal(before[k], v)}
    assert changed
    assert all("running_" in k or "num_batches" in k for k in changed)


def test_the_queue_is_filled_from_its_start_on_and_counts_when_full():
    swav = method(queue=8, queue_start="1 steps").eval()
    seen = [embeddings(swav, views_of(seed=step))[:2] for step in range(4)]  # nothing trains: these stay the same
    for step, (pushed, full) in enumerate([(0, False), (4, False), (8, False), (12, True)]):
        views, progress = views_of(seed=step), Progress(step, 10, 5)
        queued = torch.cat(seen[1:3], 1) if full else None
        assert loss_of(swav, views, progress) == pytest.approx(expected_loss(swav, views, queued), rel=1e-5)
        swav.after_step(progress)
        assert int(swav.pushed) == pushed
    assert torch.allclose(swav.queue.transpose(0, 1), torch.cat([seen[3], seen[2]], 1), atol=1e-6)
    alone, balanced = expected_loss(swav, views), expected_loss(swav, views, queued)
    assert abs(alone - balanced) > 1e-4 * alone  # or the loop above could not tell


def test_embeddings_in_the_queue_meet_the_prototypes_of_today():
    swav = method(queue=4, queue_start="0 steps").eval()
    swav.loss(views_of(seed=1), START)
    swav.after_step(START)
    with torch.no_grad():
        swav.prototypes.weight.copy_(unit(torch.randn(12, 8, generator=torch.Generator().manual_seed(9))))
    views = views_of(seed=2)
    assert loss_of(swav, views) == pytest.approx(expected_loss(swav, views, swav.queue.transpose(0, 1)), rel=1e-5)


def test_a_refused_step_leaves_no_trace_and_micro_batches_fill_the_queue_like_the_batch():
    whole, parts = (method(queue=8, queue_start="0 steps").eval() for _ in range(2))
    views = views_of(8)
    whole.loss(views, START)
    whole.after_step(START)
    parts.loss(views_of(8, seed=5), START)
    parts.forget()
    for part in views.split(2):
        parts.loss(part, START)
    parts.after_step(START)
    assert torch.allclose(whole.queue, parts.queue, atol=1e-6)
    assert whole.queue.abs().sum() > 0
    assert int(parts.pushed) == 8


def test_without_a_queue_nothing_is_kept():
    swav = method(queue=0, queue_start="0 steps").eval()
    loss_of(swav, views_of())
    swav.after_step(START)
    assert swav.queue.numel() == 0
    assert int(swav.pushed) == 0


def test_the_scores_are_float32_under_autocast():
    swav, views = method().eval(), views_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = swav.loss(views, START)["loss"]
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(loss_of(swav, views), rel=0.05)


def test_the_reference_loss_is_that_of_prototypes_that_are_all_alike():
    swav = method().eval()
    with torch.no_grad():
        swav.prototypes.weight.copy_(swav.prototypes.weight[:1].expand(12, -1).clone())
    assert loss_of(swav, views_of()) == pytest.approx(swav.reference_loss(), rel=1e-5)
    assert swav.reference_loss() == math.log(12)


def test_auto_suits_the_data_and_published_sizes_are_warned_of_on_a_thousand_frames():
    resolved = default("swav", prototypes="auto", queue="auto").resolved(DATA)
    assert (resolved.prototypes, resolved.queue) == (128, 496)
    warned = " ".join(default("swav").warnings(DATA))
    assert "method.prototypes=3000" in warned
    assert "method.queue=3840" in warned
    plenty = DataSize(frames=1_000_000, batch=256, total=400_000, epoch_steps=4000)
    resolved = default("swav", prototypes="auto", queue="auto").resolved(plenty)
    assert (resolved.prototypes, resolved.queue) == (3000, 3840)
    assert default("swav").warnings(plenty) == []


def test_a_queue_that_does_not_divide_by_the_ranks_is_refused_when_the_method_is_built(monkeypatch):
    monkeypatch.setattr("trocar.ssl.ranks.distributed.world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"method\.queue: 13 does not divide by 2 ranks; 14 would"):
        method(queue=13)
