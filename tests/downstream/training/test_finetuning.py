"""Heads on a backbone, and the learning rate of every layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trocar.backbones.load import load_backbone
from trocar.downstream.labels import LabelSpace
from trocar.downstream.protocols.base import Goal
from trocar.downstream.tasks import get_task
from trocar.downstream.training.finetuning import Classifier, hold_batch_norm
from trocar.downstream.training.fit import parameter_groups

PHASE = Goal(get_task("phase"), LabelSpace("phase", "multiclass", ("a", "b", "c")), np.zeros(1, dtype=np.int64))
TOOLS = Goal(get_task("tools"), LabelSpace("tools", "multilabel", ("x", "y")), np.zeros((1, 2), dtype=np.int64))


def network(architecture: str = "test_resnet", *goals: Goal) -> Classifier:
    return Classifier(load_backbone(f"random:{architecture}"), goals or (PHASE,), 32)


@pytest.mark.parametrize("goals", [(PHASE, TOOLS), (TOOLS, PHASE)])
def test_the_phase_head_sees_the_features_beside_the_tool_logits(goals: tuple[Goal, ...]) -> None:
    model = network("test_resnet", *goals).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = model.backbone(images)
    logits = model(images)
    tools = model.heads["tools"](features)
    assert torch.equal(logits["tools"], tools)
    assert torch.equal(logits["phase"], model.heads["phase"](torch.cat([features, tools], dim=1)))
    assert model.heads["phase"].weight.shape == (3, features.shape[1] + 2)


def test_the_phase_alone_sees_the_features() -> None:
    model = network()
    assert model.heads["phase"].weight.shape == (3, model.backbone.num_features)


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_every_layer_has_the_learning_rate_of_the_one_above_times_the_decay(architecture: str) -> None:
    model = network(architecture)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model.heads, model.backbone, 0.1, 0.5)
    scale = {names[p]: g["lr_scale"] for g in groups for p in g["params"]}
    assert set(scale) == set(names.values())
    assert scale["heads.phase.weight"] == scale["heads.phase.bias"] == 1
    stem = {"test_vit": "patch_embed.proj.weight", "test_resnet": "conv1.0.weight"}[architecture]
    block = {"test_vit": "blocks.{}.mlp.fc1.weight", "test_resnet": "layer{}.0.conv1.weight"}[architecture]
    first = int(architecture == "test_resnet")
    count = 1 + max(i for i in range(20) if f"backbone.{block.format(i)}" in scale)
    blocks = [scale[f"backbone.{block.format(i)}"] for i in range(first, count)]
    expected = [0.5 ** (len(blocks) - i) for i in range(len(blocks))]
    assert blocks == expected
    assert scale[f"backbone.{stem}"] == 0.5 ** (len(blocks) + 1)


def test_biases_norms_and_position_tables_are_not_decayed() -> None:
    model = network("test_vit")
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {
        names[p]: g["weight_decay"]
        for g in parameter_groups(model.heads, model.backbone, 0.1, 0.5)
        for p in g["params"]
    }
    assert decay["heads.phase.weight"] == decay["backbone.blocks.0.attn.qkv.weight"] == 0.1
    for name in ("heads.phase.bias", "backbone.norm.weight", "backbone.pos_embed", "backbone.cls_token"):
        assert decay[name] == 0


def test_held_batch_norm_keeps_its_statistics_and_the_rest_trains() -> None:
    model = network().train()
    hold_batch_norm(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    model(torch.randn(4, 3, 32, 32))
    assert len(norms) > 0
    assert all(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))  # type: ignore[arg-type]
    assert model.backbone.training
