"""A frozen teacher: it sees views as it wants them, and nothing of it trains or is saved."""

import copy

import pytest
import torch
import torch.nn.functional as F
from method_factory import TinyNetworks, convolutional
from torch import nn

from trocar.backbones.export import save_backbone
from trocar.backbones.identify import fingerprint
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import Preprocessing, describe_backbone
from trocar.errors import ConfigError, TrocarError
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.blocks.teachers import FrozenConfig, FrozenTeacher

VIEWS = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), size=(16, 16))
WANTED = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125), size=(224, 224))
CONV, VIT, DYNAMIC_VIT = "random:test_byobnet", "random:vit_tiny_patch16_224", "random:test_vit"


def teacher(size=None):
    return FrozenTeacher(convolutional(width=10, seed=7), VIEWS, WANTED, size, 10, "")


def networks(size, backbone="resnet10t"):
    return TimmNetworks(BackboneConfig(name=backbone), 0, [size])


def test_views_reach_the_teacher_in_its_own_normalisation():
    pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    network = convolutional(width=10, seed=7).eval()
    expected = network(WANTED.normalise(pixels))
    assert torch.allclose(teacher()(VIEWS.normalise(pixels)), expected, atol=1e-6)


def test_views_are_resized_to_the_size_asked_for():
    views = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = []
    ours = teacher(size=24)
    ours.network.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    ours(views)
    expected = F.interpolate(views * ours.scale + ours.shift, size=(24, 24), mode="bicubic", antialias=True)
    assert torch.equal(seen[0], expected)


def test_nothing_of_the_teacher_trains_or_is_saved():
    holder = nn.Sequential(teacher(), nn.Linear(2, 2)).train()
    network = holder[0].network
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert set(holder.state_dict()) == {"1.weight", "1.bias"}
    assert len(list(holder.parameters())) == 2
    assert network not in set(holder.modules())
    holder.load_state_dict(holder.state_dict(), strict=True)
    before = copy.deepcopy(network.state_dict())
    features = holder[0](torch.randn(2, 3, 16, 16, requires_grad=True))
    assert not features.requires_grad
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_it_goes_where_the_method_goes():
    holder = nn.Sequential(teacher())
    holder.to(memory_format=torch.channels_last)
    assert holder[0].network[0].weight.is_contiguous(memory_format=torch.channels_last)
    copied = copy.deepcopy(holder)
    copied.to("meta")
    assert {p.device.type for p in copied[0].network.parameters()} == {"meta"}
    assert copied[0].scale.device.type == "meta"
    assert {p.device.type for p in holder[0].network.parameters()} == {"cpu"}


def test_a_position_table_is_fitted_to_the_views_and_the_fingerprint_is_that_of_the_weights_as_published():
    built = FrozenConfig(name=VIT).build(networks(64))
    assert describe_backbone(built.network).size == (64, 64)
    assert built(torch.zeros(1, 3, 64, 64)).shape == (1, built.width) == (1, 192)
    assert built.fingerprint == str(fingerprint(load_backbone(VIT)))


def test_a_size_the_teacher_does_not_take_is_refused_with_one_that_it_does():
    with pytest.raises(ConfigError, match=r"does not take 40 .*patches are of 16 .*method\.teacher\.size=224"):
        FrozenConfig(name=VIT).build(networks(40))
    with pytest.raises(ConfigError, match=r"does not take 40 .*patch size.*method\.teacher\.size=160"):
        FrozenConfig(name=DYNAMIC_VIT).build(networks(40))
    built = FrozenConfig(name=DYNAMIC_VIT, size=64).build(networks(40))
    assert built(torch.zeros(1, 3, 40, 40)).shape == (1, 64)


def test_unknown_random_and_other_weights_are_refused():
    with pytest.raises(ConfigError, match=r"method\.teacher: no timm model.*did you mean 'resnet18'"):
        FrozenConfig(name="resnet18x").build(networks(32))
    with pytest.raises(ConfigError, match=r"random weights; write timm:resnet10t"):
        FrozenConfig(name="resnet10t").build(networks(32))
    pin = str(fingerprint(load_backbone(CONV)))
    assert FrozenConfig(name=CONV, fingerprint=pin).build(networks(64)).fingerprint == pin
    with pytest.raises(TrocarError, match=r"method\.teacher: .* other weights than expected"):
        FrozenConfig(name=DYNAMIC_VIT, fingerprint=pin).build(networks(64))


def test_an_exported_backbone_teaches_in_the_normalisation_of_its_run(tmp_path):
    save_backbone(load_backbone(CONV), tmp_path / "b", extra={}, preprocessing=WANTED)
    built = FrozenConfig(name=str(tmp_path / "b")).build(TinyNetworksOnDisk())
    white = TinyNetworks.preprocessing.normalise(torch.full((3, 1, 1), 255, dtype=torch.uint8))
    expected = WANTED.normalise(torch.full((3, 1, 1), 255, dtype=torch.uint8))
    assert torch.allclose(white * built.scale + built.shift, expected, atol=1e-5)


class TinyNetworksOnDisk(TinyNetworks):
    """Tiny students, but teachers that are loaded."""

    preprocessing = Preprocessing(size=(64, 64))
    frozen = TimmNetworks.frozen
