"""The recipes of `trocar/configs/pretrain` are the published ones: the numbers here are from their sources."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from timm.models import get_pretrained_cfg

from trocar.backbones.preprocess import IMAGENET_MEAN, IMAGENET_STD
from trocar.cli.main import main
from trocar.core.config import PRESETS, load, preset_names
from trocar.ssl.blocks.networks import TimmNetworks
from trocar.ssl.engine.optimizer import Schedule
from trocar.ssl.run.pretrain_config import PretrainConfig

EPOCH = 1000  # steps, to count the epochs of schedules


@dataclass(frozen=True)
class Published:
    """What a source says. Views are (number, pixels, scale) of each group; `recipe` is by key of the method."""

    method: str
    backbone: str
    batch: int
    epochs: int
    peak_lr: float
    final_lr: float
    warmup: int  # steps, of epochs of EPOCH steps
    decay: tuple[float, float]
    views: tuple[tuple[int, int, tuple[float, float]], ...]
    recipe: dict


def selfsupsurg(method, **recipe):
    """h001 to h004.yaml, at the learning rate that VISSL made of them."""
    views = ((2, 224, (0.5, 1.0)),)
    return Published(method, "timm:resnet50.tv_in1k", 256, 60, 0.1, 0.0, 0, (1e-6, 1e-6), views, recipe)


def dino(backbone, method="dino", batch=544, epochs=50, peak_lr=1.0625e-3, neighbours=(), **recipe):
    """main_dino.py's arguments in config_dinov1_vit{s,b}.sh, and lemonfm.py's defaults."""
    views = ((2, 224, (0.4, 1.0)), (8, 96, (0.05, 0.4)), *neighbours)
    recipe = {
        "head.prototypes": 65536,
        "head.hidden": 2048,
        "head.bottleneck": 256,
        "head.batch_norm": False,
        "head.norm_last_layer": True,
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "warmup_teacher_temperature": 0.04,
        "teacher_temperature_warmup": "0 epochs",
        "teacher_temperature_stairs": True,
        "momentum": 0.996,
        "centre_momentum": 0.9,
        "freeze_last_layer": "1 epoch",
        **recipe,
    }
    return Published(method, backbone, batch, epochs, peak_lr, 1e-6, 10 * EPOCH, (0.04, 0.4), views, recipe)


def dinov2(backbone, batch, epochs, peak_lr, warmup, final_decay, scales, **recipe):
    """config_dinov2_vitb.yaml and config_dinov3_vitl.yaml, with the learning rate that they store as resolved."""
    views = ((2, 336, scales[0]), (8, 98, scales[1]))
    recipe = {
        "student_temperature": 0.1,
        "teacher_temperature": 0.07,
        "warmup_teacher_temperature": 0.04,
        "teacher_temperature_stairs": False,
        "head.norm_last_layer": False,
        "freeze_last_layer": "1 epoch",
        "centring": "mean",
        "koleo_weight": 0.1,
        "dino_weight": 1.0,
        "ibot_weight": 1.0,
        "masking.probability": 0.5,
        "masking.ratio": (0.1, 0.5),
        **recipe,
    }
    decay = (0.04, final_decay)
    return Published("dinov2", backbone, batch, epochs, peak_lr, 1e-6, warmup * EPOCH, decay, views, recipe)


MLP = {"head.layers": (2048, 256, 4096), "head.relu": 1, "head.batch_norm": True, "head.last_batch_norm": False}
MOCO = selfsupsurg("moco_v2", temperature=0.2, momentum=0.999, queue=65536, **MLP)
PUBLISHED = {
    "selfsupsurg_mocov2_resnet50": MOCO,
    "jumpstarting_mocov2_resnet50": MOCO,
    "selfsupsurg_simclr_resnet50": selfsupsurg("simclr", temperature=0.1, **MLP),
    "selfsupsurg_swav_resnet50": selfsupsurg(
        "swav",
        prototypes=4096,
        temperature=0.1,
        epsilon=0.05,
        iterations=3,
        queue=0,
        freeze_prototypes="313 steps",
        **{"head.layers": (2048, 256), "head.relu": 1, "head.batch_norm": True},
    ),
    "selfsupsurg_dino_resnet50": selfsupsurg(
        "dino",
        student_temperature=0.1,
        warmup_teacher_temperature=0.04,
        teacher_temperature=0.07,
        teacher_temperature_warmup="7500 steps",
        momentum=0.996,
        centre_momentum=0.9,
        freeze_last_layer="1251 steps",
        **{"head.prototypes": 4096, "head.hidden": 2048, "head.bottleneck": 256, "head.batch_norm": True},
        **{"head.norm_last_layer": False},
    ),
    "surgenetdino_v1_vits": dino("vit_small_patch16_224"),
    "surgenetdino_v1_vitb": dino("vit_base_patch16_224"),
    "surgenetxl_dino_caformer_s18": dino("caformer_s18_relu"),
    "surgenetxl_dino_convnextv2_tiny": dino("convnextv2_tiny"),
    "surgenetxl_dino_pvt_v2_b2": dino("pvt_v2_b2"),
    "lemonfm_convnext_large": dino(
        "convnext_large",
        "augmented_distillation",
        batch=320,
        epochs=100,
        peak_lr=6.25e-4,
        neighbours=((2, 224, (0.4, 1.0)), (4, 96, (0.05, 0.4))),
        **{"neighbours.source": "temporal", "neighbours.count": 2, "neighbours.offsets_s": (-2, -1, 1, 2)},
    ),
    "surgenetdino_v2_vitb": dinov2(
        "dinov2_vitb14_reg4",
        batch=580,
        epochs=50,
        peak_lr=0.0007525996611745185,
        warmup=3,
        final_decay=0.4,
        scales=((0.45, 1.0), (0.25, 0.45)),
        momentum=0.992,
        teacher_temperature_warmup="6 epochs",
        ibot_head=None,
        **{"head.prototypes": 65536, "head.bottleneck": 256},
    ),
    "surgenetdino_v2_vitl": dinov2(
        "dinov2_vitl14_reg4",
        batch=232,
        epochs=100,
        peak_lr=0.0004759858191164943,
        warmup=10,
        final_decay=0.2,
        scales=((0.32, 1.0), (0.05, 0.32)),
        momentum=0.994,
        teacher_temperature_warmup="30 epochs",
        **{"head.prototypes": 131072, "head.bottleneck": 384},
        **{"ibot_head.prototypes": 131072, "ibot_head.bottleneck": 256, "ibot_head.norm_last_layer": False},
    ),
}
V3 = {
    f"surgenetdino_v3_vit{letter}": replace(
        dinov2(
            f"vit_{size}_patch16_dinov3_noreg",
            batch=batch,
            epochs=50,
            peak_lr=1e-3 * math.sqrt(batch / 1024),
            warmup=5,
            final_decay=0.4,
            scales=((0.32, 1.0), (0.05, 0.32)),
            momentum=0.992,
            teacher_temperature_warmup="15 epochs",
            centring="sinkhorn",
            **{"head.prototypes": 65536, "head.bottleneck": 256},
            **{"ibot_head.prototypes": 65536, "ibot_head.bottleneck": 256, "ibot_head.norm_last_layer": False},
        ),
        views=((2, 336, (0.32, 1.0)), (8, 144, (0.05, 0.32))),
    )
    for letter, size, batch in (("s", "small", 512), ("b", "base", 256), ("l", "large", 256))
}
PUBLISHED |= V3
SELFSUPSURG = [name for name, published in PUBLISHED.items() if published.views == MOCO.views]
ARCHITECTURE = {  # of timm, of published weights and of our own
    "caformer_s18_relu": "caformer_s18",
    "dinov2_vitb14_reg4": "vit_base_patch14_reg4_dinov2",
    "dinov2_vitl14_reg4": "vit_large_patch14_reg4_dinov2",
    **{published.backbone: published.backbone.removesuffix("_noreg") for published in V3.values()},
}
DROP_PATH = {
    "surgenetdino_v1_vits": 0.1,
    "surgenetdino_v1_vitb": 0.1,
    "surgenetdino_v2_vitb": 0.3,
    "surgenetdino_v2_vitl": 0.3,
    "surgenetxl_dino_pvt_v2_b2": 0.1,
    "lemonfm_convnext_large": 0.5,
    **dict.fromkeys(V3, 0.3),
}


def preset(name, *overrides):
    return load(PretrainConfig, f"pretrain/{name}", ["data.catalog=shards", "run.out=run", *overrides])


def at(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def test_every_pretraining_preset_is_compared_with_its_source():
    assert {name for name in preset_names() if name.startswith("pretrain/")} == {f"pretrain/{n}" for n in PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_method_batch_and_length_are_the_published_ones(name):
    config, published = preset(name), PUBLISHED[name]
    assert config.backbone.name == published.backbone
    assert config.backbone.drop_path == DROP_PATH.get(name, 0.0)
    assert config.backbone.drop_path_mode == ("skip" if name.startswith("surgenetdino_v2") else "mask")
    assert (config.method.name, config.train.batch, config.train.epochs) == (
        published.method,
        published.batch,
        published.epochs,
    )
    assert {key: at(config.method, key) for key in published.recipe} == published.recipe


@pytest.mark.parametrize("name", PUBLISHED)
def test_learning_rate_and_decay_are_those_that_were_in_effect(name):
    config, published = preset(name), PUBLISHED[name]
    total = published.epochs * EPOCH
    schedule = Schedule(config.optim, config.train.batch, total, EPOCH)
    assert schedule.peak_lr == pytest.approx(published.peak_lr, rel=1e-12)
    assert schedule.warmup_steps == published.warmup
    middle = published.warmup + (total - published.warmup) // 2
    assert schedule.lr(published.warmup) == pytest.approx(published.peak_lr)
    assert schedule.lr(middle) == pytest.approx((published.peak_lr + published.final_lr) / 2)
    assert schedule.lr(total - 1) == pytest.approx(published.final_lr, abs=1e-8)
    assert schedule.weight_decay(0) == pytest.approx(published.decay[0])
    assert schedule.weight_decay(total // 2) == pytest.approx(sum(published.decay) / 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_views_are_the_published_ones(name):
    groups = preset(name).method.recipe().groups.values()
    assert tuple((group.count, group.size, group.scale) for group in groups) == PUBLISHED[name].views


@pytest.mark.parametrize("name", PUBLISHED)
def test_crops_are_resized_as_published(name):
    """SelfSupSurg's by torchvision's default, all others as DINO's code and its heirs say: BICUBIC."""
    expected = "bilinear" if name in SELFSUPSURG else "bicubic"
    assert {group.interpolation for group in preset(name).method.recipe().groups.values()} == {expected}


@pytest.mark.parametrize("name", PUBLISHED)
def test_positions_of_local_views_are_resampled_as_published(name):
    """DINO's code in its own way; `interpolate_antialias: true` and `interpolate_offset: 0.0` in the DINOv2 files."""
    by_method = {"surgenetdino_v1": "dino", "surgenetdino_v2": "antialiased"}
    assert preset(name).backbone.position_resampling == by_method.get(name.rpartition("_")[0])


@pytest.mark.parametrize("name", [name for name in PUBLISHED if PUBLISHED[name].method == "dinov2"])
def test_blur_of_dinov2_s_views_is_what_its_inverted_probability_came_to(name):
    first, local = preset(name).method.recipe().groups.values()
    assert (first.per_view("blur"), local.per_view("blur")) == ([0.0, 0.9], [0.5] * 8)
    assert first.per_view("solarize") == [0.0, 0.2]


@pytest.mark.parametrize("name", SELFSUPSURG)
def test_selfsupsurg_s_augmentation_is_its_own_and_its_optimizer_adapts_and_decays_everything(name):
    config = preset(name)
    (group,) = config.method.recipe().groups.values()
    jitter = group.jitter
    assert (jitter.p, jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (1, 0.4, 0.4, 0.4, 0)
    assert (group.flip, group.per_view("grey"), group.per_view("blur")) == (0.5, [0, 0], [0, 0])
    assert group.per_view("solarize") == [0, 0]
    assert (group.erase.p, group.erase.scale, group.erase.ratio) == (0.8, (0.02, 0.1), (0.3, 3.3))
    rand = group.rand_augment
    assert (rand.layers, rand.magnitude, rand.magnitude_std, rand.p, len(rand.operations)) == (2, 8, 0.5, 0.5, 11)
    assert (config.optim.name, config.optim.momentum, config.optim.decay) == ("sgd", 0.9, "all")
    assert (config.optim.larc.trust, config.optim.larc.clip, config.optim.clip) == (0.001, False, None)
    assert config.train.sync_batch_norm


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(SELFSUPSURG)))
def test_adamw_clips_and_scales_layers_as_published(name):
    optim = preset(name).optim
    assert (optim.name, optim.betas, optim.clip) == ("adamw", (0.9, 0.999), 3.0)
    layers = (0.9, 0.2, "global") if PUBLISHED[name].method == "dinov2" else (None, 1.0, "parameter")
    assert (optim.layer_decay, optim.patch_embed_lr, optim.clip_by) == layers


@pytest.mark.parametrize("name", ["surgenetdino_v1_vits", "lemonfm_convnext_large"])
def test_blur_grey_and_solarize_of_dino_s_views(name):
    groups = preset(name).method.recipe().groups
    blur = {"global": [1.0, 0.1], "local": [0.5] * 8, "neighbour_global": [0.5] * 2, "neighbour_local": [0.5] * 4}
    for group_name, group in groups.items():
        assert group.per_view("blur") == blur[group_name]
        assert group.per_view("grey") == [0.2] * group.count
        assert group.per_view("solarize") == ([0.0, 0.2] if group_name == "global" else [0.0] * group.count)
        hue = 0.0 if name.startswith("lemonfm") else 0.1
        assert (group.jitter.p, group.jitter.saturation, group.jitter.hue) == (0.8, 0.2, hue)


@pytest.mark.parametrize("name", PUBLISHED)
def test_views_are_normalised_with_the_mean_and_deviation_of_imagenet(name):
    """As in all of the published codes, whatever timm's weights of the same architecture were trained with."""
    backbone = preset(name).backbone
    own = get_pretrained_cfg(ARCHITECTURE.get(backbone.name, backbone.name.removeprefix("timm:")))
    assert (backbone.mean or own.mean, backbone.std or own.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_method_of_a_preset_builds_on_a_small_backbone(name):
    """With the head that is published, but for its widths."""
    transformer = "vit" in PUBLISHED[name].backbone
    backbone = "test_vit" if transformer else "test_resnet"
    small = ["method.queue=16"] if PUBLISHED[name].method == "moco_v2" else []
    if "head.layers" in PUBLISHED[name].recipe:
        small.append("method.head.layers=[8, 8]")
    for head in ("head", "ibot_head"):
        if f"{head}.prototypes" in PUBLISHED[name].recipe:
            small += [f"method.{head}.{width}=8" for width in ("hidden", "bottleneck")]
    config = preset(name, f"backbone.name={backbone}", *small)
    method = config.method.build(TimmNetworks(config.backbone, 0, [64, 32]))
    assert sum(p.numel() for p in method.backbones[0].parameters()) < 1e6
    if PUBLISHED[name].recipe.get("head.prototypes"):
        assert method.reference_loss() == pytest.approx(math.log(PUBLISHED[name].recipe["head.prototypes"]))
        assert torch.isfinite(method.centre).all()


def test_each_preset_begins_with_what_it_is_and_names_its_source(capsys):
    assert main(["presets", "list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    for name in PUBLISHED:
        assert 20 < len(listed[f"pretrain/{name}"]) < 120
        text = Path(PRESETS, "pretrain", f"{name}.yaml").read_text(encoding="utf-8")
        assert "# Source" in text
        assert "ifferences" in text or "Everything here is" in text
