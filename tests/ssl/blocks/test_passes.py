"""Features that are noted in passes which somebody else asks for."""

import pytest
import torch
from torch import nn

from trocar.backbones.load import load_backbone
from trocar.ssl.blocks.passes import as_tokens, noted
from trocar.ssl.blocks.patches import Tokens
from trocar.ssl.blocks.transformer_blocks import pack_views
from trocar.ssl.engine.method import by_view

LARGE, SMALL = torch.randn(2, 2, 3, 64, 64), torch.randn(2, 3, 3, 32, 32)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_features_are_those_of_the_network(name):
    network = load_backbone(name).eval()
    pictures = LARGE.flatten(0, 1)
    with noted(network) as passes:
        pooled = network(pictures)
    assert torch.equal(passes.pictures[0], pictures)
    assert passes.pooled[0] is pooled
    assert passes.of_size(64) == [0]
    assert passes.of_size(32) == []
    assert torch.equal(passes.maps[0], network.forward_features(pictures))
    assert passes.tokens(0).shape == (4, 16 if name == "test_vit" else 4, network.num_features)


def test_maps_become_tokens_place_by_place():
    features = torch.arange(24.0).view(1, 4, 2, 3)  # [n, D, H, W]
    network = nn.Module()
    assert torch.equal(as_tokens(network, features)[0, 4], features[0, :, 1, 1])
    network.output_fmt = "NHWC"
    assert torch.equal(as_tokens(network, features.permute(0, 2, 3, 1))[0, 4], features[0, :, 1, 1])
    network.num_prefix_tokens = 2
    assert torch.equal(as_tokens(network, torch.arange(12.0).view(1, 4, 3)), torch.arange(6.0, 12.0).view(1, 2, 3))


def test_views_that_are_packed_are_noted_by_size():
    plain, packed = (
        load_backbone("test_vit", img_size=64, dynamic_img_size=True).eval(),
        load_backbone("test_vit", img_size=64, dynamic_img_size=True).eval(),
    )
    pack_views(packed)
    with noted(plain) as apart, noted(packed) as together:
        for network in (plain, packed):
            by_view(network, [LARGE, SMALL])
    assert together.of_size(64) == apart.of_size(64) == [0]
    for ours, theirs in zip(together.pictures, apart.pictures, strict=True):
        assert torch.equal(ours, theirs)
    for i in range(2):
        assert torch.allclose(together.tokens(i), apart.tokens(i), atol=1e-5)
        assert torch.allclose(together.pooled[i], apart.pooled[i], atol=1e-5)


def test_a_student_whose_patches_are_masked_is_noted_as_it_is():
    network = load_backbone("test_vit").eval()
    tokens, pictures = Tokens(network), torch.randn(2, 3, 160, 160)
    mask = torch.zeros(2, 100, dtype=torch.bool)
    mask[0, :50] = True
    with noted(network) as passes:
        (features,), patches = tokens.of_groups([pictures], mask, torch.ones(64))
    assert torch.equal(passes.pictures[0], pictures)
    assert torch.equal(passes.tokens(0), patches)
    assert passes.pooled[0] is features


def test_what_is_asked_of_it_without_gradient_is_a_teacher_s():
    network = load_backbone("test_convnext")
    pictures = LARGE[0]
    with noted(network) as passes:
        with torch.no_grad():
            network(pictures)
        network(pictures)
    assert len(passes.pictures) == len(passes.maps) == len(passes.pooled) == 1
    assert passes.maps[0].requires_grad


@pytest.mark.parametrize("packed", [False, True])
def test_the_network_is_as_it_was_afterwards(packed):
    network = load_backbone("test_vit")
    if packed:
        pack_views(network)
    before = dict(vars(network))
    with pytest.raises(ZeroDivisionError), noted(network):
        raise ZeroDivisionError
    assert vars(network) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_module_of_somebody_s_own_shows_pooled_features_alone():
    network = Own()
    with noted(network) as passes:
        pooled = network(LARGE[0])
    assert passes.pooled[0] is pooled
    assert passes.maps == []
