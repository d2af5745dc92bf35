"""Optimizers, parameter groups and scaling against their closed forms in float64."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from trocar.core.config import validate
from trocar.errors import ConfigError
from trocar.ssl.engine.optimizer import OptimConfig, Schedule, build_optimizer, cosine, parameter_groups, restore


class Holder(nn.Module):
    """A backbone and a head, with what `build_optimizer` asks of a method."""

    def __init__(self, backbone, head=None):
        super().__init__()
        self.backbone, self.head = backbone, head or nn.Linear(4, 3)

    @property
    def backbones(self):
        return [self.backbone]


def holder():
    torch.manual_seed(0)
    return Holder(nn.Linear(5, 4, bias=False)).double()


def trained(config, gradients, method=None, lr=0.1, resume_at=None):
    """Weights after one step per entry of `gradients`: {name: array or None}; resumed from its state on the way."""
    method = method or holder()
    optimizer = build_optimizer(method, config)
    for step, values in enumerate(gradients):
        if step == resume_at:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = build_optimizer(method, config)
            restore(optimizer, state)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            group["weight_decay"] = config.weight_decay * group["weight_decay_scale"]
        for name, p in method.named_parameters():
            p.grad = None if values[name] is None else torch.tensor(values[name])
        optimizer.step()
    return {name: p.detach().numpy().copy() for name, p in method.named_parameters()}


def some_gradients(steps, frozen_at=()):
    rng = np.random.default_rng(1)
    out = [{name: rng.normal(size=p.shape) for name, p in holder().named_parameters()} for _ in range(steps)]
    for step in frozen_at:
        out[step]["head.weight"] = None
    return out


def published(gradients, wd, decayed, adapted, trust=0.001, eps=0.0, clip=False, lr=0.1, momentum=0.9, nesterov=False):
    """LARS / LARC / SGD, one parameter at a time as the papers write it."""
    weights = {name: p.detach().numpy().copy() for name, p in holder().named_parameters()}
    buffers = {}
    for values in gradients:
        for name, w in weights.items():
            g = values[name]
            if g is None:
                continue
            decay = wd if decayed(name) else 0.0
            rate = 1.0
            if adapted(name) and np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
                rate = trust * np.linalg.norm(w) / (np.linalg.norm(g) + decay * np.linalg.norm(w) + eps)
                rate = min(rate / lr, 1.0) if clip else rate
            g = rate * (g + decay * w)
            buffers[name] = g if name not in buffers else momentum * buffers[name] + g
            w -= lr * (g + momentum * buffers[name] if nesterov else buffers[name])
    return weights


def is_matrix(name):
    return name.endswith("weight")


def everything(name):
    return True


def nothing(name):
    return False


SGD = {"name": "sgd", "lr": 0.1, "weight_decay": 0.01}
CASES = {
    "sgd": (SGD, {"decayed": is_matrix, "adapted": nothing}),
    "sgd decaying all": (SGD | {"decay": "all"}, {"decayed": everything, "adapted": nothing}),
    "nesterov": (SGD | {"nesterov": True}, {"decayed": is_matrix, "adapted": nothing, "nesterov": True}),
    "lars": (SGD | {"name": "lars"}, {"decayed": is_matrix, "adapted": is_matrix}),
    "lars without decay": (SGD | {"name": "lars", "weight_decay": 0}, {"decayed": nothing, "adapted": is_matrix}),
    "lars on all": (
        SGD | {"name": "lars", "decay": "all", "trust": 0.02},
        {"decayed": everything, "adapted": everything, "trust": 0.02},
    ),
    "larc": (SGD | {"larc": {}, "decay": "all"}, {"decayed": everything, "adapted": everything, "eps": 1e-8}),
    "larc with clipping": (
        SGD | {"larc": {"trust": 0.5, "clip": True, "eps": 0.1}},
        {"decayed": is_matrix, "adapted": everything, "trust": 0.5, "eps": 0.1, "clip": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_update_is_the_closed_form(case, steps):
    config, expected = CASES[case]
    gradients = some_gradients(steps)
    ours = trained(OptimConfig.model_validate(config), gradients)
    for name, w in published(gradients, config["weight_decay"], **expected).items():
        np.testing.assert_allclose(ours[name], w, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("case", ["sgd", "lars", "larc"])
def test_a_parameter_without_gradient_is_neither_moved_nor_decayed(case):
    """DINO's last layer at first; then it starts with a momentum of zero beside parameters that have one."""
    config, expected = CASES[case]
    config = OptimConfig.model_validate(config)
    frozen = trained(config, some_gradients(2, frozen_at=(0, 1)))
    np.testing.assert_array_equal(frozen["head.weight"], holder().head.weight.detach().numpy())
    gradients = some_gradients(4, frozen_at=(0, 1))
    for name, w in published(gradients, 0.01, **expected).items():
        np.testing.assert_allclose(trained(config, gradients)[name], w, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("config", [{}, *(CASES[case][0] for case in ("sgd", "lars", "larc"))])
def test_the_state_is_all_in_the_state_dict(config):
    config, gradients = OptimConfig.model_validate(config), some_gradients(4, frozen_at=(0,))
    through, resumed = trained(config, gradients), trained(config, gradients, resume_at=2)
    for name, w in through.items():
        np.testing.assert_array_equal(resumed[name], w)


def test_a_restored_optimizer_keeps_the_settings_of_its_configuration():
    before = build_optimizer(holder(), OptimConfig.model_validate(SGD | {"momentum": 0.5}))
    after = build_optimizer(holder(), OptimConfig.model_validate(SGD))
    restore(after, before.state_dict())
    assert [g["momentum"] for g in after.param_groups] == [0.9, 0.9]


def test_adamw_is_the_closed_form():
    gradients, config = some_gradients(3), OptimConfig(betas=(0.8, 0.95), weight_decay=0.3)
    weights = {name: p.detach().numpy().copy() for name, p in holder().named_parameters()}
    for name, w in weights.items():
        m = v = 0.0
        for t, g in enumerate((values[name] for values in gradients), 1):
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            w *= 1 - 0.1 * (0.3 if is_matrix(name) else 0.0)
            w -= 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        np.testing.assert_allclose(trained(config, gradients)[name], w, rtol=1e-12, err_msg=name)


def test_a_weight_of_zero_is_not_adapted():
    method = holder()
    with torch.no_grad():
        method.head.weight.zero_()
    gradients = some_gradients(1)
    ours = trained(OptimConfig.model_validate(CASES["lars"][0]), gradients, method)
    np.testing.assert_allclose(ours["head.weight"], -0.1 * gradients[0]["head.weight"], rtol=1e-12)


def test_biases_and_one_dimensional_parameters_are_not_decayed_unless_asked():
    method = Holder(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), nn.Linear(6, 2))
    method.backbone[0].weight.requires_grad_(False)
    decayed, plain = parameter_groups(method, method.backbones, OptimConfig())
    assert (decayed["weight_decay_scale"], plain["weight_decay_scale"]) == (1.0, 0.0)
    assert [p.shape for p in decayed["params"]] == [(2, 6)]
    assert [p.shape for p in plain["params"]] == [(6,), (6,), (6,), (2,)]
    (group,) = parameter_groups(method, method.backbones, OptimConfig(decay="all"))
    assert (group["weight_decay_scale"], len(group["params"])) == (1.0, 5)


def scales(method, config):
    """{parameter name: lr_scale}."""
    groups = parameter_groups(method, method.backbones, config)
    by_parameter = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(by_parameter) == sum(len(group["params"]) for group in groups)
    return {name: by_parameter[id(p)] for name, p in method.named_parameters()}


def tiny_vit():
    return timm.create_model("test_vit", num_classes=0)


def test_layer_decay_of_a_vit_is_decay_to_the_distance_from_the_head():
    method = Holder(tiny_vit())
    depth = len(method.backbone.blocks)
    for name, scale in scales(method, OptimConfig(layer_decay=0.9, patch_embed_lr=0.2)).items():
        layer = depth + 1
        if name.startswith("backbone.blocks."):
            layer = int(name.split(".")[2]) + 1
        elif name.startswith("backbone.norm."):
            layer = depth
        elif name.startswith("backbone."):
            layer = 0
        expected = 0.9 ** (depth + 1 - layer) * (0.2 if "patch_embed" in name else 1.0)
        assert scale == pytest.approx(expected, rel=1e-12), name


def test_layer_decay_of_a_convnext_counts_blocks_over_the_stages():
    method = Holder(timm.create_model("test_convnext", num_classes=0))
    result = scales(method, OptimConfig(layer_decay=0.5, patch_embed_lr=0.2))
    blocks = [f"{s}.blocks.{b}" for s, stage in enumerate(method.backbone.stages) for b in range(len(stage.blocks))]
    assert len(blocks) == 9
    assert result["backbone.stem.0.weight"] == pytest.approx(0.2 * 0.5**10)
    for layer, block in enumerate(blocks, 1):
        assert result[f"backbone.stages.{block}.conv_dw.weight"] == 0.5 ** (10 - layer)
    # a downsampling goes with the block behind it
    assert result["backbone.stages.2.downsample.1.weight"] == result["backbone.stages.2.blocks.0.conv_dw.weight"]
    assert result["backbone.head.norm.weight"] == result["head.weight"] == 1.0


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet"])
def test_layers_are_those_that_timm_gives_the_model_with_a_classifier(name):
    whole, bare = timm.create_model(name), timm.create_model(name, num_classes=0)
    groups = timm.optim.param_groups_layer_decay(whole, layer_decay=0.7)
    theirs = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    expected = {k: theirs[id(p)] for k, p in whole.named_parameters()}
    ours = scales(Holder(bare), OptimConfig(layer_decay=0.7))
    assert {k: ours[f"backbone.{k}"] for k, _ in bare.named_parameters()} == pytest.approx(
        {k: expected[k] for k, _ in bare.named_parameters()}, rel=1e-12
    )


def test_groups_are_the_same_each_time_and_carry_nothing_that_varies():
    first, second = (
        parameter_groups(m, m.backbones, OptimConfig(layer_decay=0.8)) for m in (Holder(tiny_vit()), Holder(tiny_vit()))
    )
    assert [{k: v for k, v in g.items() if k != "params"} for g in first] == [
        {k: v for k, v in g.items() if k != "params"} for g in second
    ]
    assert [[p.shape for p in g["params"]] for g in first] == [[p.shape for p in g["params"]] for g in second]
    assert set(first[0]) == {"params", "lr_scale", "weight_decay_scale", "staged"}


def test_a_backbone_without_patch_embedding_has_no_rate_for_it():
    with pytest.raises(ConfigError, match="no patch embedding; leave the setting away"):
        parameter_groups(holder(), holder().backbones, OptimConfig(patch_embed_lr=0.2))


def test_the_schedule_is_applied_with_each_group_s_scales():
    method, config = Holder(tiny_vit()), OptimConfig(layer_decay=0.5, warmup="0 steps", lr=1.0, lr_batch=8)
    optimizer, schedule = build_optimizer(method, config), Schedule(config, 16, 10, 10)
    assert schedule.apply(optimizer, 3) == {"lr": schedule.lr(3), "weight_decay": schedule.weight_decay(3)}
    for group in optimizer.param_groups:
        assert group["lr"] == schedule.lr(3) * group["lr_scale"]
        assert group["weight_decay"] == schedule.weight_decay(3) * group["weight_decay_scale"]


@pytest.mark.parametrize(
    ("scaling", "lr", "lr_batch", "batch", "expected"),
    [
        ("linear", 0.3, 256, 4096, 4.8),  # SimCLR's 0.3 x batch / 256
        ("sqrt", 4e-3, 1024, 2048, 4e-3 * 2**0.5),  # DINOv2
        ("none", 0.03, 256, 4096, 0.03),  # MoCo v2
    ],
)
def test_the_learning_rate_is_scaled_by_its_rule(scaling, lr, lr_batch, batch, expected):
    schedule = Schedule(OptimConfig(lr=lr, scaling=scaling, lr_batch=lr_batch), batch, 100, 10)
    assert schedule.peak_lr == pytest.approx(expected, rel=1e-12)


def test_moco_s_first_schedule_drops_at_120_and_160_of_200_epochs():
    config = OptimConfig(
        name="sgd", lr=0.03, weight_decay=1e-4, scaling="none", warmup="0 steps", schedule="steps",
        drops=("120 epochs", "160 epochs"),
    )  # fmt: skip
    schedule = Schedule(config, 256, total=1000, epoch_steps=5)
    assert [schedule.lr(s) for s in (0, 599, 600, 799, 800, 999)] == pytest.approx(
        [0.03, 0.03, 3e-3, 3e-3, 3e-4, 3e-4], rel=1e-12
    )
    assert {schedule.weight_decay(s) for s in (0, 500, 999)} == {1e-4}


def test_a_constant_rate_starts_with_its_warmup():
    config = OptimConfig(lr=2.0, scaling="none", schedule="constant", warmup="5 steps", warmup_start=0.125)
    schedule = Schedule(config, 256, total=10, epoch_steps=5)
    expected = [*np.linspace(0.25, 2.0, 5), *[2.0] * 5]
    assert [schedule.lr(s) for s in range(10)] == pytest.approx(expected, rel=1e-12)


def test_the_warmup_starts_at_its_share_of_the_peak():
    schedule = Schedule(OptimConfig(lr=1.0, lr_batch=1, warmup="4 steps", warmup_start=0.5), 2, 10, 5)
    assert [schedule.lr(s) for s in range(4)] == pytest.approx(np.linspace(1.0, 2.0, 4).tolist(), rel=1e-12)
    assert schedule.lr(7) == pytest.approx(cosine(3, 2.0, 1e-6, 6), rel=1e-12)


@pytest.mark.parametrize(("epoch_steps", "expected"), [(20, 100), (5, 50)])
def test_warmup_auto_is_10_epochs_but_at_most_a_tenth_of_the_run(epoch_steps, expected):
    assert Schedule(OptimConfig(warmup="auto"), 64, total=1000, epoch_steps=epoch_steps).warmup_steps == expected


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"name": "sgd"}, "sgd needs lr and weight_decay: the defaults are AdamW's"),
        ({"larc": {}}, "larc adapts sgd"),
        ({"nesterov": True}, "nesterov needs sgd or lars"),
        ({"schedule": "steps"}, "schedule: steps and drops"),
        ({"warmup": "ten"}, "warmup"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tree, why):
    with pytest.raises(ConfigError, match=why):
        validate(OptimConfig, tree, "x.yaml")


def test_sgd_has_a_constant_decay_and_no_clipping_unless_told():
    config = OptimConfig.model_validate(SGD)
    assert (config.final_weight_decay, config.clip) == (None, None)
    assert OptimConfig.model_validate(SGD | {"clip": 1.0}).clip == 1.0
    assert OptimConfig.model_validate(config.model_dump()) == config
