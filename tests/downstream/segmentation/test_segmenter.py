"""Every decoder on every family of backbones: shapes, gradients, and whose weights compute."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from trocar.backbones.load import load_backbone
from trocar.downstream.segmentation.encoder import layout
from trocar.downstream.segmentation.segmenter import DECODERS, Neck, Segmenter, build_segmenter
from trocar.errors import ConfigError

SIZE = (75, 106)
FAMILIES = {
    "resnet10t": {},
    "convnext_atto": {},
    "pvt_v2_b0": {},
    "vit_tiny_patch16_224": {"depth": 4},
    "vit_small_patch14_dinov2": {"depth": 4},
}


def backbone(name: str = "resnet10t", **kwargs: object) -> nn.Module:
    return load_backbone(f"random:{name}", seed=1, **kwargs)


def images(count: int = 2, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("decoder", DECODERS.names())
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_have_the_size_of_odd_images_and_gradients_reach_the_first_layer(name: str, decoder: str) -> None:
    model = build_segmenter(backbone(name, **FAMILIES[name]), decoder, 3, SIZE, freeze=False)
    logits = model(images())
    assert logits.shape == (2, 3, *SIZE)
    logits.square().mean().backward()
    first = next(p for p in model.backbone.parameters() if p.ndim == 4)
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.decoder.parameters())


@pytest.mark.parametrize("name", ["caformer_s18", "swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3"])
def test_larger_families_take_a_rectangle_that_is_not_a_multiple_of_32(name: str) -> None:
    model = build_segmenter(backbone(name), "fpn", 2, (70, 120), freeze=True).eval()
    assert model(images(1, (70, 120))).shape == (1, 2, 70, 120)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_backbone_is_the_given_module_and_its_weights_compute(name: str) -> None:
    given = backbone(name, **FAMILIES[name])
    model = build_segmenter(given, "fpn", 3, SIZE, freeze=False).eval()
    assert model.backbone is given
    before = model(images())
    with torch.no_grad():
        next(p for p in given.parameters() if p.ndim == 4).mul_(1.5)
    assert not torch.allclose(before, model(images()))


def test_encoder_maps_are_those_of_timms_own_feature_extractor() -> None:
    given = backbone("resnet10t")
    reference = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    missing = reference.load_state_dict(given.state_dict(), strict=False)
    assert missing.missing_keys == []
    model = build_segmenter(given, "fpn", 2, (64, 96), freeze=False).eval()
    maps, _ = model.encoder(images(1, (64, 96)))
    for ours, theirs in zip(maps, reference(images(1, (64, 96))), strict=True):
        assert torch.equal(ours, theirs)


def test_the_linear_decoder_of_a_vit_sees_the_normed_patch_tokens() -> None:
    given = backbone("vit_tiny_patch16_224", depth=4)
    model = build_segmenter(given, "linear", 2, (64, 96), freeze=True).eval()
    maps, _ = model.encoder(images(1, (64, 96)))
    tokens = given.eval().forward_features(images(1, (64, 96)))[:, 1:]
    assert torch.allclose(maps[0].flatten(2).transpose(1, 2), tokens, atol=1e-5)


def trained_a_step(model: Segmenter) -> None:
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    model(images()).square().mean().backward()
    optimizer.step()


def test_a_frozen_backbone_has_no_gradient_and_its_statistics_do_not_move() -> None:
    given = backbone("resnet10t")
    model = build_segmenter(given, "fpn", 3, SIZE, freeze=True)
    before = copy.deepcopy(given.state_dict())
    head = copy.deepcopy(model.decoder.state_dict())
    trained_a_step(model)
    assert not given.training
    assert all(p.grad is None for p in given.parameters())
    assert all(torch.equal(before[k], v) for k, v in given.state_dict().items())
    assert not all(torch.equal(head[k], v) for k, v in model.decoder.state_dict().items())


def test_an_unfrozen_backbone_moves_its_statistics_too() -> None:
    given = backbone("resnet10t")
    model = build_segmenter(given, "fpn", 3, SIZE, freeze=False)
    before = copy.deepcopy(given.state_dict())
    trained_a_step(model)
    assert not torch.equal(before["bn1.running_mean"], given.state_dict()["bn1.running_mean"])
    assert not torch.equal(before["conv1.0.weight"], given.state_dict()["conv1.0.weight"])


def test_building_leaves_the_statistics_and_the_mode_as_they_were() -> None:
    given = backbone("resnet10t").train()
    before = copy.deepcopy(given.state_dict())
    build_segmenter(given, "fpn", 3, SIZE, freeze=False)
    assert given.training
    assert all(torch.equal(before[k], v) for k, v in given.state_dict().items())


def test_decoder_weights_follow_from_the_seed_alone() -> None:
    def head(seed: int, surroundings: int) -> torch.Tensor:
        torch.manual_seed(surroundings)
        return build_segmenter(backbone("resnet10t"), "pyramid", 3, SIZE, False, seed=seed).decoder.lateral[0].weight

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_segmenter(backbone("resnet10t"), "pyramid", 3, SIZE, False)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(head(0, surroundings=1), head(0, surroundings=2))
    assert not torch.equal(head(0, surroundings=1), head(1, surroundings=1))


@pytest.mark.parametrize(("patch", "scale", "multiple"), [(8, 2, 32), (14, 4, 28), (16, 4, 32), (32, 8, 32)])
def test_a_plain_transformer_gets_maps_near_strides_4_to_32(patch: int, scale: int, multiple: int) -> None:
    found = layout(backbone(f"vit_tiny_patch{patch}_224", depth=8) if patch == 16 else _vit(patch))
    assert (found.patch, found.scale, found.multiple) == (patch, scale, multiple)
    assert found.indices == (1, 3, 5, 7)
    grid = 2 * multiple // patch
    maps = Neck([8] * 4, found.scale)([torch.zeros(1, 8, grid, grid)] * 4)
    assert [m.shape[-1] for m in maps] == [2 * multiple * scale // patch // 2**k for k in range(4)]


def _vit(patch: int) -> nn.Module:
    return timm.models.VisionTransformer(img_size=patch * 4, patch_size=patch, embed_dim=24, depth=8, num_heads=2)


def test_the_position_table_keeps_its_values_where_the_size_stays() -> None:
    given = backbone("vit_tiny_patch16_224", depth=4)
    before = given.pos_embed.detach().clone()
    build_segmenter(given, "fpn", 2, (224, 224), freeze=True)
    assert torch.equal(before, given.pos_embed)
    build_segmenter(given, "fpn", 2, (224, 280), freeze=True)
    assert given.pos_embed.shape[1] == 1 + 14 * 18


def test_logits_are_those_of_the_image_padded_below_and_on_the_right_cut_back() -> None:
    model = build_segmenter(backbone(), "fpn", 3, SIZE, freeze=True).eval()
    whole = Segmenter(model.encoder, model.decoder, 3, model.padded, model.padded).eval()
    padded = torch.zeros(2, 3, 96, 128)
    padded[..., :75, :106] = images()
    assert model.padded == (96, 128)
    assert torch.equal(model(images()), whole(padded)[..., :75, :106])


def test_images_of_another_size_are_refused() -> None:
    model = build_segmenter(backbone(), "linear", 2, SIZE, freeze=True)
    with pytest.raises(ValueError, match="75 x 106"):
        model(images(1, (64, 64)))


@pytest.mark.parametrize(
    ("name", "decoder", "classes", "message"),
    [
        ("resnet10t", "fnp", 3, "did you mean 'fpn'"),
        ("resnet10t", "fpn", 1, "two or more"),
        ("levit_128s", "fpn", 3, "strides 16, 32, 64; the decoders need 4, 8, 16 and 32"),
        ("hiera_tiny_224", "fpn", 3, "cannot take 96 x 128 px images"),
    ],
)
def test_what_cannot_work_says_so(name: str, decoder: str, classes: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_segmenter(backbone(name), decoder, classes, SIZE, freeze=True)


def test_a_model_without_feature_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear gives no feature maps"):
        build_segmenter(nn.Linear(2, 2), "fpn", 2, SIZE, freeze=True)
