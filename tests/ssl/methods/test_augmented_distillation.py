"""Augmented distillation is DINO with more student views: which, of which frames, and in how many terms."""

import numpy as np
import pytest
import torch
from data_factory import make_catalog
from method_factory import START, build, some_views

from trocar.core.config import validate
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard
from trocar.ssl.blocks.heads import DinoHead
from trocar.ssl.losses import dino_loss, teacher_probabilities
from trocar.ssl.methods.dino import DinoConfig
from trocar.ssl.methods.distillation import AugmentedDistillationConfig
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig

SMALL = {
    "global": {"size": 16},
    "local": {"size": 8, "count": 3},
    "neighbour_global": {"size": 16},
    "neighbour_local": {"size": 8},
}


def config(neighbours=2, **views):
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
    three = config(3, neighbour_local={"size": 8, "count": 2, "blur": [0.1, 0.9]}).recipe()
    assert three.frames == 4
    assert three.groups["neighbour_local"].frames() == [1, 1, 2, 2, 3, 3]
    assert three.groups["neighbour_local"].per_view("blur") == [0.1, 0.9] * 3
    assert "neighbour_local" not in config(neighbour_local=None).recipe().groups


def test_a_frame_cannot_be_chosen_by_hand():
    with pytest.raises(ConfigError, match=r"views\.neighbour_global\.frame"):
        validate(AugmentedDistillationConfig, {"views": {"neighbour_global": {"frame": 2}}}, "test")


def test_thirty_terms_of_a_teacher_that_never_sees_a_neighbour():
    method = build(config(local={"size": 8, "count": 8})).train()
    views = some_views(config(local={"size": 8, "count": 8}))
    seen = []
    method.teacher.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    loss = method.loss(views, START)["loss"]
    anchors = views["global"].transpose(0, 1).flatten(0, 1)
    assert len(seen) == 1
    assert torch.equal(seen[0], anchors)

    fresh = build(config(local={"size": 8, "count": 8})).train()
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
    method = build(config()).eval()
    views = some_views(config())
    logits = [method.student_head(method.student(x)) for group in views.crops.values() for x in group.transpose(0, 1)]
    teacher = [method.teacher_head(method.teacher(x)) for x in views["global"].transpose(0, 1)]
    q = teacher_probabilities(torch.stack(teacher), method.centre, 0.04)
    assert torch.allclose(method.loss(views, START)["loss"], dino_loss(torch.stack(logits), q, 0.1), rtol=1e-5)


def test_a_run_delivers_neighbours_and_remembers_how_they_were_drawn(tmp_path):
    make_catalog(tmp_path, 2, 6)
    method = config().model_dump(mode="json", by_alias=True)

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
    ours = build(config()).eval()
    views = some_views(config())
    plain = DinoConfig.model_validate(
        {"views": {k: v for k, v in SMALL.items() if "neighbour" not in k}, "head": config().head}
    )
    anchors = {name: views[name] for name in ("global", "local")}
    dino = build(plain).eval()
    only_anchors = type(views)(anchors, views.rows, views.mask_seed)
    assert torch.equal(ours.loss(only_anchors, START)["loss"], dino.loss(only_anchors, START)["loss"])
