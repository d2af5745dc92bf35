"""LoRA against peft's formula, and merged against unmerged."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.lora import LoraConfig, adapted_layers, add_lora, is_factor, merged_state
from trocar.errors import ConfigError

NETWORKS = ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"]


def first(name: str) -> nn.Module:
    """With blocks that count: ConvNeXt's layer scale begins at 1e-6."""
    network = load_backbone(name, seed=1).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("gamma"):
                parameter.fill_(0.5)
    return network


def adapted(name: str, **config) -> nn.Module:
    """With factors that are not zero."""
    network = first(name)
    add_lora(network, LoraConfig(**config), seed=3)
    torch.manual_seed(4)
    for layer in adapted_layers(network).values():
        nn.init.normal_(layer.lora_b, std=0.05)
    return network


def peft_forward(layer: nn.Module, a: torch.Tensor, b: torch.Tensor, alpha: float, x: torch.Tensor) -> torch.Tensor:
    """`result = base_layer(x); result + lora_B(lora_A(x)) * scaling`, with modules as peft builds them."""
    rank = len(a)
    if isinstance(layer, nn.Linear):
        lora_a, lora_b = nn.Linear(a.shape[1], rank, bias=False), nn.Linear(rank, len(b), bias=False)
    else:
        lora_a = nn.Conv2d(a.shape[1], rank, layer.kernel_size, layer.stride, layer.padding, bias=False)
        lora_b = nn.Conv2d(rank, len(b), (1, 1), (1, 1), bias=False)
    with torch.no_grad():
        lora_a.weight.copy_(a.view_as(lora_a.weight))
        lora_b.weight.copy_(b.view_as(lora_b.weight))
    return layer(x) + lora_b(lora_a(x)) * (alpha / rank)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (2, 3, 6)),
        (nn.Conv2d(6, 5, 1), (2, 6, 4, 4)),
        (nn.Conv2d(6, 5, 1, stride=2, bias=False), (2, 6, 5, 5)),
    ],
    ids=["linear", "convolution", "strided convolution"],
)
def test_a_layer_gives_what_peft_s_formula_gives(layer, shape):
    plain = type(layer)(**_arguments(layer))
    plain.load_state_dict(layer.state_dict())
    holder = nn.Sequential(layer)
    holder.pretrained_cfg = {"input_size": (3, 4, 4)}
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer_only(holder, LoraConfig(rank=3, alpha=12))
    nn.init.normal_(holder[0].lora_b)
    expected = peft_forward(plain, holder[0].lora_a, holder[0].lora_b, 12, x)
    torch.testing.assert_close(holder(x), expected, rtol=1e-6, atol=1e-6)
    merged = type(plain)(**_arguments(plain))
    merged.load_state_dict({key.removeprefix("0."): v for key, v in merged_state(holder).items()})
    torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)


def layer_only(holder: nn.Sequential, config: LoraConfig) -> None:
    """A lone layer takes no picture."""
    from trocar.backbones import lora

    with torch.random.fork_rng():
        lora._adapt(holder[0], config)


def _arguments(layer: nn.Module) -> dict:
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    names = ("in_channels", "out_channels", "kernel_size", "stride")
    return {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}


@pytest.mark.parametrize("name", NETWORKS)
def test_at_first_nothing_changes_and_only_factors_learn(name):
    plain, network = (load_backbone(name, seed=1).eval() for _ in range(2))
    chosen = add_lora(network, LoraConfig(rank=2), seed=0)
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), plain(x))
    trained = {key for key, p in network.named_parameters() if p.requires_grad}
    assert trained == {f"{layer}.{factor}" for layer in chosen for factor in ("lora_a", "lora_b")}
    for layer in adapted_layers(network).values():
        bound = layer.lora_a.shape[1] ** -0.5  # sqrt(6 / ((1 + 5) in))
        assert 0 < float(layer.lora_a.detach().abs().max()) <= bound
        assert not layer.lora_b.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_exported_is_plain_timm_with_the_features_of_the_adapted_network(name, tmp_path):
    network = adapted(name, rank=2)
    plain = first(name)
    save_backbone(network, tmp_path / "out", extra={})
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights.keys() == plain.state_dict().keys()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    exported = timm.create_model(config["architecture"], num_classes=0, **config["model_args"]).eval()
    exported.load_state_dict(weights, strict=True)
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    expected = network(x)
    assert float((expected - plain(x)).detach().abs().max()) > 1e-3
    torch.testing.assert_close(exported(x), expected, rtol=1e-5, atol=1e-5)


def test_factors_follow_from_the_seed_alone():
    one, second, other = (load_backbone("test_vit", seed=1) for _ in range(3))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    add_lora(one, LoraConfig(), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    add_lora(second, LoraConfig(), seed=5)
    add_lora(other, LoraConfig(), seed=6)
    states = [{k: v for k, v in n.state_dict().items() if is_factor(k)} for n in (one, second, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["blocks.0.attn.qkv.lora_a"], states[2]["blocks.0.attn.qkv.lora_a"])


def test_targets_are_patterns_of_names():
    network = load_backbone("test_vit", seed=1)
    chosen = add_lora(network, LoraConfig(targets=("*.attn.qkv", "blocks.0.mlp.fc1")), seed=0)
    assert set(chosen) == {f"blocks.{i}.attn.qkv" for i in range(len(network.blocks))} | {"blocks.0.mlp.fc1"}


def test_only_plain_layers_and_ungrouped_1x1_convolutions_have_factors():
    network = load_backbone("test_efficientnet", seed=1)
    chosen = set(add_lora(network, LoraConfig(), seed=0))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            assert (name in chosen) == (module.kernel_size == (1, 1) and module.groups == 1), name


def test_dropout_is_of_what_the_factors_see_and_only_in_training():
    network = adapted("test_vit", dropout=0.5)
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(network(x), network(x))
    assert not torch.equal(network.train()(x), network(x))


def test_a_target_that_names_nothing_is_refused_with_what_is_near():
    with pytest.raises(ConfigError, match=r"'\*\.attn\.qvk' names no linear layer.*attn\.qkv"):
        add_lora(load_backbone("test_vit"), LoraConfig(targets=("*.attn.qvk",)), seed=0)


def test_layers_that_a_network_reads_without_calling_them_are_refused():
    beit = timm.create_model("beit_base_patch16_224", num_classes=0, depth=1, embed_dim=48, num_heads=3)
    modes = [module.training for module in beit.modules()]
    with pytest.raises(ConfigError, match=r"never calls blocks\.0\.attn\.qkv"):
        add_lora(beit, LoraConfig(), seed=0)
    assert [module.training for module in beit.modules()] == modes
    assert "blocks.0.attn.proj" in add_lora(beit, LoraConfig(targets=("*.proj", "*.fc?")), seed=0)
