"""The presets `adapt/...` and `pretrain/surgenetdino_v3_*` price a dry run as they are and train for two steps.

Weights are random: of the preset's own architecture for the dry run, of a small network of the same kind for the steps.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_factory import make_catalog

from trocar.backbones.published.family import BACKBONES
from trocar.backbones.source import TIMM
from trocar.backbones.weight_names import licence_of, random_name
from trocar.cli.main import main
from trocar.core.config import PRESETS, load, preset_names
from trocar.ssl.run.pretrain_config import PretrainConfig

VIT = ("method.views.global.size=32", "method.views.local={size: 16, count: 2}")
HEADS = ("method.head.prototypes=32", "method.head.hidden=16", "method.head.bottleneck=8")
IBOT = tuple(word.replace("head", "ibot_head") for word in HEADS)


DINOV3 = "backbone.name=vit_tiny_patch16_dinov3_qkvb"
CAFORMER = ("method.views.global.size=64", "method.views.local={size: 32, count: 2}", "backbone.name=caformer_s18_relu")
SIMCLR = ("method.views.size=32", "method.head.layers=[16, 8]")
V3 = (*VIT, *HEADS, *IBOT, DINOV3)
# Overrides that make a preset cheap; the method and every other key stay the preset's.
SMALL = {
    "adapt/dinov3_vits16": (*VIT, *HEADS, DINOV3),
    "adapt/dinov3_vitb16": (*VIT, *HEADS, DINOV3),
    "adapt/dinov2_vitb14_reg4": (*VIT, *HEADS, "backbone.name=test_vit2"),
    "adapt/imagenet_resnet50": ("method.views.size=32", "method.queue=8", "backbone.name=test_resnet"),
    "adapt/imagenet_convnext_tiny": (*SIMCLR, "backbone.name=test_convnext"),
    "adapt/surgenetxl_caformer_s18": (*CAFORMER, *HEADS),
    "adapt/small_imagenet": (*SIMCLR, "backbone.name=test_efficientnet"),
    "pretrain/surgenetdino_v3_vits": V3,
    "pretrain/surgenetdino_v3_vitb": V3,
    "pretrain/surgenetdino_v3_vitl": V3,
}
ADAPT = [name for name in preset_names() if name.startswith("adapt/")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    make_catalog(folder / "shards", 4, 8)
    return folder / "shards"


def given(name: str, shards: Path, out: Path) -> list[str]:
    words = [f"data.catalog={shards}", "data.composition.curate=none", f"run.out={out}", "run.workers=0"]
    if load(PretrainConfig, name, ["data.catalog=x", "run.out=y"]).adapt is not None:
        # Random weights are never frozen.
        words += ["adapt.frozen=0 steps", "adapt.ramp=1 steps"]
    return [*words, "tracking.uri=none", "train.precision=float32", "train.batch=4"]


def test_every_preset_that_adapts_is_tried() -> None:
    assert set(ADAPT) == {name for name in SMALL if name.startswith("adapt/")}
    assert len(ADAPT) == 7


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_two_steps_on_a_small_network_of_the_same_kind(name: str, shards: Path, tmp_path: Path) -> None:
    words = [*given(name, shards, tmp_path / "run"), *SMALL[name], "train.steps=2"]
    if name.startswith("pretrain/"):
        words.append("train.epochs=null")
    assert main(["pretrain", name, *words]) == 0
    assert (tmp_path / "run" / "backbone" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["run_id"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_dry_run_of_the_real_network(
    name: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(PretrainConfig, name, ["data.catalog=x", "run.out=y"])
    words = [*given(name, shards, tmp_path / "run"), f"backbone.name={random_name(config.backbone.name)}"]
    assert main(["pretrain", name, *words, "--dry-run"]) == 0
    assert config.method.name in capsys.readouterr().out


@pytest.mark.parametrize("name", ADAPT)
def test_first_weights_have_a_name_and_a_licence_and_the_preset_says_what_is_published(name: str) -> None:
    weights = load(PretrainConfig, name, ["data.catalog=x", "run.out=y"]).backbone.name
    known = weights.startswith(TIMM) and "unknown" not in licence_of(weights.removeprefix(TIMM))
    assert known or BACKBONES.get(weights).family.licence != "unknown"
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    assert "# Source: " in text
    assert "ours" in text
    assert f"trocar fetch {weights}" in text


@pytest.mark.parametrize("name", ["adapt/dinov3_vits16", "adapt/dinov3_vitb16"])
def test_going_on_from_dinov3_has_the_rates_of_its_source(name: str) -> None:
    config = load(PretrainConfig, name, ["data.catalog=x", "run.out=y"])
    optim, method = config.optim, config.method
    assert (optim.lr, optim.min_lr, optim.layer_decay, optim.patch_embed_lr) == (5e-5, 5e-5, 0.9, 0.2)
    assert (optim.weight_decay, optim.final_weight_decay, optim.warmup) == (0.04, 0.04, "3000 steps")
    assert (method.momentum, method.warmup_teacher_temperature, method.teacher_temperature) == (0.994, 0.04, 0.07)
