"""The section `adapt`: lengths, what is refused, what is warned of, and what people are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_methods import TEACHER, merged, tiny_run
from torch import nn

from trocar.core.config import validate
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard
from trocar.ssl.adapt import AdaptConfig, AdaptLines
from trocar.ssl.engine.backbone_stages import BackboneStages
from trocar.ssl.engine.optimizer import OptimConfig, Schedule
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.auto_values import DataSize
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.run_description import describe_at_length

SIZE = DataSize(frames=320, batch=8, total=200, epoch_steps=40)
TEN = BackboneStages(10, 20)
SIMCLR = {"views": {"size": 32}, "head": {"layers": [8, 4]}}


def configured(data: Path, adapt: Any, **sections: Any) -> PretrainConfig:
    tree = tiny_run("simclr", data, data / "out", 1, SIMCLR, **merged({"backbone": {"name": TEACHER}}, sections))
    return validate(PretrainConfig, tree | {"adapt": adapt}, "test")


def set_up(data: Path, adapt: Any, **sections: Any) -> Pretraining:
    return Pretraining(configured(data, adapt, **sections), World(), say=print, guard=RunGuard())


@pytest.mark.parametrize(
    ("given", "epoch_steps", "steps"),
    [
        ("auto", 40, 20),  # at most a tenth of the run
        ("auto", 7, 7),  # an epoch
        ("5 steps", 40, 5),
        ("2 epochs", 40, 80),
        ("25 %", 40, 50),
        ("0 steps", 40, 0),
    ],
)
def test_a_length_is_given_or_suits_the_run(given, epoch_steps, steps):
    size = DataSize(320, 8, 200, epoch_steps)
    assert AdaptConfig(frozen=given, ramp="3 steps").stages(size) == BackboneStages(steps, 3)
    assert AdaptConfig(frozen="3 steps", ramp=given).stages(size) == BackboneStages(3, steps)


def test_frozen_norms_are_of_the_whole_run():
    assert AdaptConfig(norm_buffers="frozen").stages(SIZE).holds_norms(199)
    assert not AdaptConfig().stages(SIZE).holds_norms(199)


@pytest.mark.parametrize(
    ("frozen", "ramp", "words"),
    [
        ("auto", "auto", []),
        ("100 steps", "90 steps", []),
        ("101 steps", "10 steps", ["adapt.frozen=101 steps: that is 101 of the 200 steps; adapt.frozen=20 steps"]),
        ("1 epoch", "80 %", ["adapt.ramp=80 %: with 40 frozen steps before, none of the 200 steps is left in which"]),
        (
            "5 epochs",
            "auto",
            ["adapt.frozen=5 epochs: the backbone is frozen in all of the 200 steps"],
        ),
    ],
)
def test_stages_that_leave_nothing_of_the_run_are_warned_of(frozen, ramp, words):
    found = AdaptConfig(frozen=frozen, ramp=ramp).warnings(SIZE)
    assert len(found) == len(words)
    assert all(line.startswith(beginning) for line, beginning in zip(found, words, strict=True))


def test_it_is_part_of_what_determines_the_result_only_where_it_is_given(data):
    assert "adapt" not in configured(data, None).recipe()
    assert configured(data, {"frozen": "2 steps"}).recipe()["adapt"] == {
        "frozen": "2 steps",
        "ramp": "auto",
        "norm_buffers": "train",
        "lora": None,
    }


@pytest.mark.parametrize("name", ["test_resnet", "random:test_resnet"])
@pytest.mark.parametrize(
    ("adapt", "key"), [({"frozen": "2 steps"}, "frozen"), ({}, "frozen"), ({"frozen": "0 steps", "lora": {}}, "lora")]
)
def test_random_weights_are_not_worth_keeping(data, name, adapt, key):
    with pytest.raises(ConfigError, match=rf"adapt.{key}: {name} starts from random weights.*timm:test_resnet"):
        _ = set_up(data, adapt, backbone={"name": name}).schedule


def test_random_weights_may_have_a_ramp(data):
    assert set_up(data, {"frozen": "0 steps"}, backbone={"name": "test_resnet"}).schedule.stages == BackboneStages(0, 1)


def test_a_frozen_stage_in_which_nothing_learns_is_refused(data):
    method = {"name": "distillation", "teacher": {"name": TEACHER}, "views": {"size": 32}, "weights": {"feature": 0}}
    tree = tiny_run("distillation", data, data / "out", 1, method, backbone={"name": TEACHER}, adapt={})
    setup = Pretraining(validate(PretrainConfig, tree, "test"), World(), say=print, guard=RunGuard())
    with pytest.raises(ConfigError, match=r"adapt\.frozen: this method has nothing but its backbone"):
        _ = setup.method


def test_factors_over_parts_of_weights_are_refused(data):
    with pytest.raises(ConfigError, match=r"train\.shard: full with adapt\.lora: factors are merged"):
        configured(data, {"lora": {}}, train={"shard": "full"})
    configured(data, {"frozen": "1 steps"}, train={"shard": "full"})


def test_a_wrong_target_is_named_by_its_full_key(data):
    with pytest.raises(ConfigError, match=r"adapt.lora.targets: '\*.qkv' names no linear layer"):
        _ = set_up(data, {"lora": {"targets": ["*.qkv"]}}).method


def test_the_stages_are_told_with_the_rates_at_their_borders():
    config = OptimConfig(lr=1.0, scaling="none", warmup="11 steps", schedule="constant")
    told = AdaptLines(TEN, Schedule(config, 8, 100, 10, TEN), 100)
    assert told.lines(nn.Identity()) == [
        "stages     from step 0, 10 steps: backbone frozen; learning rate of the backbone 0, of the rest 0 to 0.9",
        "           from step 10, 20 steps: backbone rising; learning rate of the backbone 0 to 1, of the rest 1",
        "           from step 30, 70 steps: backbone as scheduled; learning rate of the backbone 1, of the rest 1",
        "           its batch norms' running statistics move with the backbone",
    ]
    short = AdaptLines(BackboneStages(0, 0, True), Schedule(config, 8, 5, 10), 5)
    assert short.lines(nn.Identity()) == [
        "stages     from step 0, 5 steps: backbone as scheduled; learning rate of the backbone 0 to 1, of the rest "
        "0 to 1",
        "           its batch norms' running statistics stand still all the run",
    ]


def test_a_dry_run_says_all_that(data):
    lines = describe_at_length(set_up(data, {"frozen": "5 steps", "ramp": "5 steps", "lora": {"rank": 2}}))
    text = "\n".join(lines)
    assert "stages     from step 0, 5 steps: backbone frozen" in text
    assert "low-rank factors of " in text
    assert "warning    adapt.ramp=5 steps: with 5 frozen steps before" in text
    assert "rank: 2" in text
