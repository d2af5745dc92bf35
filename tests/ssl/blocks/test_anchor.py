"""The anchor of a run: with every method, in the method's own passes, with nothing of it that trains."""

from pathlib import Path

import pytest
import torch
from method_factory import START, some_views
from pydantic import ValidationError
from tiny_methods import BATCH, METHODS, VIT, merged, tiny_run
from torch import nn

from trocar.backbones.identify import fingerprint
from trocar.backbones.load import load_backbone
from trocar.core.config import validate
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard
from trocar.runs.run_folder import judged_loss
from trocar.ssl.anchor_losses import gram_anchoring, kernel_alignment
from trocar.ssl.blocks.anchor import AnchorConfig, build_anchor
from trocar.ssl.blocks.heads import OwnNetworks
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.blocks.passes import as_tokens
from trocar.ssl.engine.method import Progress, norm_buffers
from trocar.ssl.engine.optimizer import OptimConfig, build_optimizer
from trocar.ssl.methods.dino import DinoConfig
from trocar.ssl.methods.dinov2 import Dinov2Config
from trocar.ssl.methods.moco_v3 import MocoV3Config
from trocar.ssl.methods.simclr import SimclrConfig
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig

HEAD = {"layers": [32, 16]}
CONFIGS = {
    "simclr": SimclrConfig.model_validate({"views": {"size": 64}, "head": HEAD}),
    "moco_v3": MocoV3Config.model_validate({"views": {"size": 64}, "head": HEAD, "predictor": HEAD}),
    "dino": DinoConfig.model_validate(
        {
            "views": {"global": {"size": 64}, "local": {"size": 32, "count": 2}},
            "head": {"prototypes": 24, "hidden": 32, "bottleneck": 16},
        }
    ),
}
KINDS = ["gram", "alignment", "features", "cosine"]


def anchored(name="simclr", backbone="test_efficientnet", seed=0, size=64, **anchor):
    config = CONFIGS[name]
    networks = TimmNetworks(BackboneConfig(name=backbone), seed, [size, 32])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        method = config.build(networks)
    method.feature_anchor = build_anchor(AnchorConfig(**{"kind": "gram", **anchor}), method, networks)
    return method, some_views(config)


def moved(method):
    """The trained network, away from its first weights."""
    with torch.no_grad():
        for parameter in method.backbones[0].parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return method


def of_every_method(name, data: Path, out: Path, **anchor):
    method = merged(METHODS[name].method, {"masking": {"probability": 0.0}} if name == "dinov2" else {})
    tree = tiny_run(name, data, out, 1, method, backbone={"name": VIT}, anchor={"kind": "gram", **anchor})
    return Pretraining(validate(PretrainConfig, tree, "test"), World(), print, RunGuard())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_an_anchor_without_another_pass_of_its_student(name, data, tmp_path):
    setup = of_every_method(name, data, tmp_path / "run", weight=3.0)
    method, views = setup.placed(), some_views(setup.method_config, b=BATCH)
    student, anchor = method.backbones[0], method.feature_anchor
    calls = {"student": 0, "anchor": 0}

    def count(who):
        return lambda *_: calls.__setitem__(who, calls[who] + 1)

    student.patch_embed.register_forward_hook(count("student"))
    anchor.held[0].patch_embed.register_forward_hook(count("anchor"))
    method.step_begins(START)
    method.loss(views, START)
    alone, calls["student"] = calls["student"], 0
    method.eval()  # the student as well: no batch statistics, no stochastic depth
    method.step_begins(START)
    losses = method(views, START)
    assert calls["student"] == alone
    assert calls["anchor"] >= 1
    assert float(losses["anchor_loss"].detach()) == 0
    assert torch.equal(losses["loss"], losses["method_loss"])
    moved(method)
    losses = method(views, START)
    assert float(losses["anchor_loss"].detach()) > 1e-6
    assert torch.equal(losses["loss"], losses["method_loss"] + 3.0 * losses["anchor_loss"])
    losses["anchor_loss"].backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    prefix = next(n for n, module in method.named_modules() if module is student)
    assert reached
    assert all(n.startswith(f"{prefix}.") for n in reached)
    assert all(p.grad is None for p in anchor.held[0].parameters())


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_in_eval_mode_with_its_first_weights_has_no_loss(backbone, kind):
    method, views = anchored(backbone=backbone, kind=kind)
    loss = float(method.eval()(views, START)["anchor_loss"].detach())
    if kind == "alignment":  # whose epsilon shows where tokens are next to nothing, as fresh ones behind batch norms
        tokens = as_tokens(
            method.student, method.student.forward_features(views["global"].transpose(0, 1).flatten(0, 1))
        )
        assert loss == pytest.approx(float(kernel_alignment(tokens, tokens).detach()), abs=1e-6)
    else:
        assert loss == pytest.approx(0, abs=0 if kind in ("gram", "features") else 1e-6)
    assert float(moved(method)(views, START)["anchor_loss"].detach()) > 1e-6


def test_batch_statistics_are_what_differs_from_the_anchor_at_first():
    method, views = anchored()
    for module in method.train().student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert float(method(views, START)["anchor_loss"].detach()) == 0
    assert float(method.train()(views, START)["anchor_loss"].detach()) > 1e-4


def test_the_loss_is_that_of_the_views_of_the_first_group():
    method, views = anchored("dino", backbone="test_convnext")
    moved(method).eval()
    pictures = views["global"].transpose(0, 1).flatten(0, 1)
    first = load_backbone("test_convnext", seed=0).eval()
    ours, theirs = (as_tokens(n, n.forward_features(pictures)) for n in (method.student, first))
    found = method(views, START)["anchor_loss"]
    assert torch.allclose(found, gram_anchoring(ours, theirs), rtol=1e-5)


def test_passes_of_one_view_each_are_taken_together():
    method, views = anchored("moco_v3", kind="features")
    moved(method).eval()
    seen = []
    method.feature_anchor.held[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    method(views, START)
    assert [torch.equal(x, view) for x, view in zip(seen, views["global"].unbind(1), strict=True)] == [True, True]


def test_a_masked_student_is_compared_with_an_anchor_that_sees_all_patches():
    config = Dinov2Config.model_validate(
        {
            "views": {"global": {"size": 64}, "local": None},
            "head": {"prototypes": 24, "hidden": 32, "bottleneck": 16},
            "masking": {"probability": 1.0, "ratio": [0.5, 0.6], "smallest": 1},
        }
    )
    networks = TimmNetworks(BackboneConfig(name="test_vit"), 0, [64])
    method = config.build(networks)
    method.feature_anchor = build_anchor(AnchorConfig(kind="gram"), method, networks)
    method.eval()
    assert float(method(some_views(config), START)["anchor_loss"].detach()) > 1e-4


def test_nothing_of_the_first_weights_trains_or_is_saved():
    method, _ = anchored("dino")
    plain = CONFIGS["dino"].build(TimmNetworks(BackboneConfig(name="test_efficientnet"), 0, [64, 32]))
    assert method.state_dict().keys() == plain.state_dict().keys()
    held = set(method.feature_anchor.held[0].parameters())
    optimizer = build_optimizer(method, OptimConfig())
    assert held.isdisjoint(p for group in optimizer.param_groups for p in group["params"])
    assert held.isdisjoint(method.parameters())
    method.train()
    assert not any(m.training for m in method.feature_anchor.held[0].modules())
    weights = fingerprint(load_backbone("test_efficientnet", seed=0))
    assert weights.matches(fingerprint(method.feature_anchor.held[0]))
    assert "anchor_weights" in method.feature_anchor.identity()


def test_a_copy_that_is_refreshed_is_in_the_state_and_in_nothing_that_a_step_changes():
    method, _ = anchored(teacher="ema", refresh="2 steps")
    copied = method.feature_anchor.held[0]
    keys = {k for k in method.state_dict() if k.startswith("feature_anchor.copy.")}
    assert len(keys) == len(copied.state_dict())
    assert len(list(norm_buffers(method))) == len(list(norm_buffers(method.student)))
    other, _ = anchored(teacher="ema", refresh="2 steps", seed=5)
    other.load_state_dict(method.state_dict(), strict=True)
    assert all(map(torch.equal, other.feature_anchor.held[0].state_dict().values(), copied.state_dict().values()))
    damaged = {k: v for k, v in method.state_dict().items() if k != next(iter(sorted(keys)))}
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(damaged)


def test_a_copy_is_taken_at_the_start_and_after_each_time_as_often_as_is_said():
    config = AnchorConfig(kind="gram", teacher="ema", refresh="10 %", refreshes=2, start="1 epoch")
    steps = [step for step in range(100) if config.copies_at(Progress(step, 50, 7))]
    assert steps == [7, 12, 17]
    endless = AnchorConfig(kind="gram", teacher="ema", refresh="3 steps")
    assert [step for step in range(10) if endless.copies_at(Progress(step, 10, 5))] == [0, 3, 6, 9]


@pytest.mark.parametrize(("name", "followed"), [("simclr", "student"), ("dino", "teacher"), ("moco_v3", "teacher")])
def test_a_copy_is_that_of_the_moving_average_or_of_the_student_where_there_is_none(name, followed):
    method, _ = anchored(name, teacher="ema", refresh="2 steps")
    network, copied = method.get_submodule(followed), method.feature_anchor.held[0]
    before = copied.conv_stem.weight.clone()
    with torch.no_grad():
        for value in (*network.parameters(), *norm_buffers(network)):
            value.add_(1)
    method.step_begins(Progress(1, 10, 5))
    assert torch.equal(copied.conv_stem.weight, before)
    method.step_begins(Progress(2, 10, 5))
    assert all(map(torch.equal, copied.state_dict().values(), network.state_dict().values()))


def test_the_moving_average_as_it_is_is_followed_in_eval_mode_and_left_as_it_was():
    method, views = anchored("dino", teacher="ema")
    assert method.feature_anchor.held == ()
    assert (
        method.state_dict().keys()
        == CONFIGS["dino"]
        .build(TimmNetworks(BackboneConfig(name="test_efficientnet"), 0, [64, 32]))
        .state_dict()
        .keys()
    )
    method.eval()
    assert float(method(views, START)["anchor_loss"].detach()) == 0
    method.teacher.train()
    method.teacher.bn1.eval()
    method(views, START)
    assert method.teacher.training
    assert not method.teacher.bn1.training


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_features_where_they_were(kind):
    """Ten steps of SimCLR: how far off the anchor's measure is in the end."""
    ends = []
    for weight in (1e-6, 30.0):
        method, views = anchored(backbone="test_vit", kind=kind, weight=weight)
        optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
        for _ in range(10):
            optimizer.zero_grad()
            method(views, START)["loss"].backward()
            optimizer.step()
        ends.append(float(method(views, START)["anchor_loss"].detach()))
    assert ends[1] < 0.6 * ends[0]


def test_it_says_what_it_does():
    first, _ = anchored("dino", weight=2.0)
    said = "\n".join(first.feature_anchor.lines(first))
    assert "Gram matrices of patch tokens, weight 2, from 0 steps on" in said
    assert f"the first weights, {first.feature_anchor.fingerprint}" in said
    copies, _ = anchored("simclr", teacher="ema", refresh="10 %", refreshes=3)
    assert "a copy of the student, taken then and again after each 10 %, 3 times at most" in "\n".join(
        copies.feature_anchor.lines(copies)
    )


def test_before_its_start_there_is_no_anchor():
    method, views = anchored(start="3 steps")
    assert method(views, Progress(2, 10, 5)).keys() == {"loss", "pair_accuracy"}
    assert method(views, Progress(3, 10, 5)).keys() >= {"anchor_loss", "method_loss"}


def test_the_loss_that_a_collapse_is_judged_by_is_the_method_s_own():
    assert judged_loss({"loss": 9.0, "method_loss": 8.0, "anchor_loss": 1.0}) == "method_loss"
    assert judged_loss({"loss": 9.0, "method_loss": 8.0, "dino_loss": 7.0}) == "dino_loss"


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 6)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


def test_a_module_of_somebody_s_own_is_anchored_by_pooled_features():
    networks = OwnNetworks(Own(), BackboneConfig(name="own"), 0, [64])
    method = CONFIGS["simclr"].build(networks)
    method.feature_anchor = build_anchor(AnchorConfig(kind="features"), method, networks)
    views = some_views(CONFIGS["simclr"])
    assert float(method(views, START)["anchor_loss"].detach()) == 0
    with pytest.raises(ConfigError, match=r"anchor\.kind: gram: Own shows 0 .*take features"):
        build_anchor(AnchorConfig(kind="gram"), method, networks)
    with pytest.raises(ConfigError, match=r"anchor with train\.compile: Own repeats no block"):
        method.feature_anchor.compilable(method)


def test_what_cannot_be_anchored_is_refused_with_what_can():
    with pytest.raises(ConfigError, match=r"anchor\.refresh: Simclr has no moving average"):
        anchored(teacher="ema")
    with pytest.raises(ConfigError, match=r"anchor\.kind: alignment: a view of 32 pixels has one patch"):
        anchored(kind="alignment", size=32)
    with pytest.raises(ValidationError, match=r"first weights stay what they are"):
        AnchorConfig(kind="gram", refresh="10 %")
    with pytest.raises(ValidationError, match=r"refreshes counts copies"):
        AnchorConfig(kind="gram", teacher="ema", refreshes=3)
    method, views = anchored()
    method.loss = lambda views, progress: {"loss": torch.zeros(())}
    with pytest.raises(ConfigError, match=r"no view of the first group \(64 pixels\)"):
        method(views, START)
