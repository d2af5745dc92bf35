"""MoCo v2 as a method: queries and keys, the queue's order, the slowly moving encoder."""

import copy

import pytest
import torch
from method_factory import DATA, START, build, some_views

from trocar.ssl.blocks.heads import unit
from trocar.ssl.engine.method import Views
from trocar.ssl.losses import info_nce
from trocar.ssl.methods import default


def config(queue=6, **changes):
    return default("moco_v2", views={"size": 16}, head={"layers": [16, 8]}, queue=queue, **changes)


def views_of(b=4, seed=0, rows=None):
    views = some_views(config(), b, seed)
    return Views(views.crops, views.rows if rows is None else torch.tensor(rows), views.mask_seed)


def keys_of(moco, views):
    """For a method in eval mode."""
    with torch.no_grad():
        return unit(moco.teacher_head(moco.teacher(views["global"][:, 1])))


def test_defaults_are_the_published_recipe():
    published = default("moco_v2")
    views = published.views
    assert (views.count, views.size, views.scale, views.flip) == (2, 224, (0.2, 1.0), 0.5)
    jitter = views.jitter
    assert (jitter.p, jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.8, 0.4, 0.4, 0.4, 0.1)
    assert (views.per_view("grey"), views.per_view("blur"), views.sigma) == ([0.2] * 2, [0.5] * 2, (0.1, 2.0))
    assert (published.temperature, published.momentum, published.queue) == (0.2, 0.999, 65536)
    assert (published.head.layers, published.head.batch_norm, published.shuffle_bn) == ((2048, 128), False, True)


def test_the_queue_starts_as_random_unit_rows_of_no_frame():
    moco = build(config())
    assert torch.allclose(moco.queue.norm(dim=1), torch.ones(6))
    assert moco.queue.std() > 0.2
    assert moco.queue_rows.tolist() == [-1] * 6
    assert moco.queue_rows.dtype == torch.int64


def test_the_first_view_is_the_query_and_the_second_the_key():
    moco, views = build(config()).eval(), views_of()
    with torch.no_grad():
        query = unit(moco.student_head(moco.student(views["global"][:, 0])))
    nobody = torch.zeros(4, 6, dtype=torch.bool)
    expected = info_nce(query, keys_of(moco, views), moco.queue, nobody, 0.2)
    assert float(moco.loss(views, START)["loss"].detach()) == pytest.approx(float(expected), rel=1e-5)


def test_a_key_of_the_query_s_own_frame_is_no_negative():
    moco, views = build(config()).eval(), views_of(rows=[1, 2, 3, 4])
    other = float(moco.loss(views, START)["loss"].detach())
    moco.queue_rows[2:4] = torch.tensor([3, 3])
    mine = float(moco.loss(views, START)["loss"].detach())
    same = torch.zeros(4, 6, dtype=torch.bool)
    same[2, 2:4] = True
    with torch.no_grad():
        query = unit(moco.student_head(moco.student(views["global"][:, 0])))
    assert mine == pytest.approx(float(info_nce(query, keys_of(moco, views), moco.queue, same, 0.2)), rel=1e-5)
    assert mine < other


def test_keys_enter_the_queue_with_their_rows_in_order_and_wrap():
    moco = build(config(momentum=1.0)).eval()  # keys of an encoder that stays
    random = moco.queue.clone()
    first, second = views_of(seed=1, rows=[1, 2, 3, 4]), views_of(seed=2, rows=[5, 6, 7, 8])
    keys = [keys_of(moco, views) for views in (first, second)]
    moco.loss(first, START)
    moco.after_step(START)
    assert moco.queue_rows.tolist() == [1, 2, 3, 4, -1, -1]
    assert torch.allclose(moco.queue, torch.cat([keys[0], random[4:]]), atol=1e-6)
    moco.loss(second, START)
    moco.after_step(START)
    assert moco.queue_rows.tolist() == [7, 8, 3, 4, 5, 6]
    assert torch.allclose(moco.queue, torch.cat([keys[1][2:], keys[0][2:], keys[1][:2]]), atol=1e-6)
    assert int(moco.pushed) == 8


def test_a_refused_step_leaves_no_keys_and_micro_batches_those_of_the_batch():
    whole, parts = (build(config(queue=12)).eval() for _ in range(2))
    views = views_of(8)
    whole.loss(views, START)
    whole.after_step(START)
    parts.loss(views_of(8, seed=7), START)
    parts.forget()
    for part in views.split(2):
        parts.loss(part, START)
    parts.after_step(START)
    assert torch.allclose(whole.queue, parts.queue, atol=1e-6)
    assert torch.equal(whole.queue_rows, parts.queue_rows)
    assert parts.queue_rows.tolist() == [*range(100, 108), -1, -1, -1, -1]


@pytest.mark.parametrize("shuffle_bn", [True, False])
def test_the_student_takes_gradients_and_the_key_encoder_none(shuffle_bn):
    moco = build(config(shuffle_bn=shuffle_bn)).train()
    moco.loss(views_of(), START)["loss"].backward()
    assert all(p.grad is not None for part in (moco.student, moco.student_head) for p in part.parameters())
    assert not any(p.requires_grad for part in (moco.teacher, moco.teacher_head) for p in part.parameters())
    assert not moco._keys[0][0].requires_grad


def test_loss_changes_norm_statistics_only_and_after_step_moves_the_key_encoder():
    moco = build(config(momentum=0.9)).train()
    before = copy.deepcopy(moco.state_dict())
    moco.loss(views_of(), START)
    changed = {k for k, v in moco.state_dict().items() if not torch.equal(before[k], v)}
    assert changed
    assert all("running_" in k or "num_batches" in k for k in changed)
    with torch.no_grad():
        for p in moco.parameters():
            p.add_(float(p.requires_grad))
    moco.after_step(START)
    for name in ("teacher.0.weight", "teacher_head.layers.2.bias"):
        assert torch.allclose(moco.state_dict()[name], before[name] + 0.1, atol=1e-6)


def test_auto_suits_the_data_and_published_values_are_warned_of_on_a_thousand_frames():
    resolved = default("moco_v2", queue="auto", momentum="auto").resolved(DATA)
    assert (resolved.queue, resolved.momentum) == (496, 0.99)
    warned = " ".join(default("moco_v2").warnings(DATA))
    assert "method.queue=65536" in warned
    assert "method.momentum=0.999" in warned
    assert resolved.warnings(DATA) == []
