"""Stages are functions of the step; what each of them does to parameters, batch norms and rates."""

import copy
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from trocar.backbones.lora import LoraConfig, add_lora
from trocar.ssl.blocks.teachers import update_teacher
from trocar.ssl.engine.backbone_stages import BackboneStages
from trocar.ssl.engine.optimizer import OptimConfig, Schedule, build_optimizer, parameter_groups
from trocar.ssl.engine.staged_backbone import StagedBackbone


class Holder(nn.Module):
    """A student, a teacher and a head."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.teacher, self.head = backbone, copy.deepcopy(backbone), nn.Linear(4, 3)

    @property
    def backbones(self):
        return [self.backbone, self.teacher]


def holder():
    torch.manual_seed(0)
    return Holder(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


def test_the_rate_is_zero_then_a_linspace_then_the_schedule_s():
    stages = BackboneStages(frozen=3, ramp=5)
    assert [stages.lr_factor(step) for step in range(10)] == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [BackboneStages().lr_factor(step) for step in (0, 7)] == [1, 1]
    assert [BackboneStages(2, 0).lr_factor(step) for step in range(4)] == [0, 0, 1, 1]
    assert [BackboneStages(0, 1).lr_factor(step) for step in range(3)] == [0, 1, 1]


@pytest.mark.parametrize("frozen_norms", [False, True])
def test_gradients_and_norms_follow_the_step_whatever_step_was_before(frozen_norms):
    method = holder()
    method.backbone[0].bias.requires_grad_(False)  # as a method may
    staged = StagedBackbone(method, BackboneStages(2, 2, frozen_norms))
    for step in (0, 1, 2, 5, 1, 4, 0):
        method.train()  # as label-free health metrics leave it
        staged.enter(step)
        frozen = step < 2
        assert [p.requires_grad for p in method.backbone.parameters()] == [not frozen, False, not frozen, not frozen]
        assert all(p.requires_grad for p in method.head.parameters())
        held = frozen or frozen_norms
        assert [network[1].training for network in method.backbones] == [not held, not held]
        assert method.backbone.training  # stochastic depth is as it was
        assert staged.moves(method.teacher[1].running_var, step) == (not held)


def test_without_stages_nothing_is_touched():
    method = holder()
    method.backbone[1].eval()
    StagedBackbone(method, None).enter(0)
    assert not method.backbone[1].training
    assert method.teacher[1].training
    assert all(p.requires_grad for p in method.parameters())


def test_the_gradient_of_a_frozen_backbone_is_not_counted():
    method = holder()
    for parameter in method.parameters():
        parameter.grad = torch.ones_like(parameter)
    staged = StagedBackbone(method, BackboneStages(2))
    staged.gradients_ready(2)
    assert all(p.grad is not None for p in method.parameters())
    staged.gradients_ready(1)
    assert all(p.grad is None for p in method.backbone.parameters())
    assert all(p.grad is not None for p in method.head.parameters())


def test_the_factor_is_on_the_backbone_s_groups_alone_and_logged():
    method, config = holder(), OptimConfig(lr=1.0, scaling="none", warmup="0 steps", schedule="constant")
    optimizer = build_optimizer(method, config, staged=True)
    schedule = Schedule(config, 8, 10, 10, BackboneStages(2, 5))
    own = {id(p) for p in method.backbone.parameters()}
    for step, factor in ((0, 0.0), (3, 0.25), (9, 1.0)):
        values = schedule.apply(optimizer, step)
        assert values == {"lr": 1.0, "weight_decay": schedule.weight_decay(step), "backbone_lr_factor": factor}
        for group in optimizer.param_groups:
            assert {id(p) in own for p in group["params"]} == {group["staged"]}
            assert group["lr"] == (factor if group["staged"] else 1.0)


def test_the_average_of_equal_weights_is_those_weights_to_the_bit():
    torch.manual_seed(0)
    student, teacher = nn.Linear(300, 100), nn.Linear(300, 100)
    teacher.load_state_dict(student.state_dict())
    for momentum in (0.0, 0.3, 0.7, 0.996, 0.9999, 1.0):
        update_teacher(teacher, student, momentum)
        assert torch.equal(teacher.weight, student.weight)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet", "caformer_s18"])
def test_factors_have_the_layer_decay_of_the_weight_beside_them(name):
    plain, adapted = (timm.create_model(name, num_classes=0) for _ in range(2))
    layers = add_lora(adapted, LoraConfig(rank=2), seed=0, size=(64, 64) if name == "caformer_s18" else None)
    expected = scales(plain)
    assert layers
    for layer in layers:
        for factor in ("lora_a", "lora_b"):
            assert scales(adapted)[f"{layer}.{factor}"] == expected[f"{layer}.weight"]


def scales(backbone):
    method = SimpleNamespace(named_parameters=backbone.named_parameters)
    groups = parameter_groups(method, [backbone], OptimConfig(layer_decay=0.5))
    by_parameter = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    return {name: by_parameter[id(p)] for name, p in backbone.named_parameters() if id(p) in by_parameter}


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("test_resnet", ("conv1.", "bn1.")),
        ("test_efficientnet", ("conv_stem.", "bn1.")),
        ("test_convnext", ("stem.",)),
        ("test_byobnet", ("stem.",)),
    ],
)
def test_a_convolutional_stem_has_the_patch_embedding_s_factor(name, stem):
    backbone = timm.create_model(name, num_classes=0)
    groups = parameter_groups(backbone, [backbone], OptimConfig(patch_embed_lr=0.2))
    slow = {id(p) for group in groups if group["lr_scale"] == 0.2 for p in group["params"]}
    assert {name for name, p in backbone.named_parameters() if id(p) in slow} == {
        name for name, _ in backbone.named_parameters() if name.startswith(stem)
    }
