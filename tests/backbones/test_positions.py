"""Position tables at another size: DINO's resampling against a bicubic interpolation worked out in numpy."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from trocar.backbones import load_backbone
from trocar.backbones.export import save_backbone
from trocar.backbones.preprocess import fit_input_size, resample_as_dino, resampling_of, set_resampling
from trocar.backbones.published.build import build
from trocar.backbones.published.convert import convert
from trocar.backbones.published.family import BACKBONES
from trocar.errors import ConfigError, TrocarError
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.75, torch's."""
    x, a = np.abs(x), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def along(old: int, new: int) -> np.ndarray:
    """[new, old]: each place reads four neighbours, at (i + .5) N / (n + .1) - .5; beyond the ends, the last one."""
    weights = np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) * old / (new + 0.1) - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            weights[i, min(max(tap, 0), old - 1)] += cubic(np.array(at - tap))
    return weights


def as_in_dino(table: Tensor, old: int, new: int) -> np.ndarray:
    """[1, 1 + N, D] -> [1 + n, D]."""
    values = table[0].detach().double().numpy()
    grid = values[1:].reshape(old, old, -1)
    found = np.einsum("ia,jb,abd->ijd", along(old, new), along(old, new), grid)
    return np.concatenate([values[:1], found.reshape(new * new, -1)])


def small(seed: int = 0, **kwargs: object) -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VisionTransformer(img_size=56, patch_size=4, embed_dim=6, depth=1, num_heads=2, num_classes=0, **kwargs)
    torch.nn.init.normal_(model.pos_embed, generator=torch.Generator().manual_seed(seed))
    return model.eval()


@pytest.mark.parametrize("new", [6, 7, 21])
def test_the_table_is_resampled_without_antialiasing_at_a_scale_of_n_and_a_tenth(new: int) -> None:
    table = torch.randn(1, 1 + 14 * 14, 3, generator=torch.Generator().manual_seed(1))
    found = resample_as_dino(table, (14, 14), (new, new))
    np.testing.assert_allclose(found[0].numpy(), as_in_dino(table, 14, new), atol=1e-5)


def test_local_views_get_these_positions_and_timm_s_differ() -> None:
    model, timm_s = small(dynamic_img_size=True), small(dynamic_img_size=True)
    set_resampling(model, "dino")
    patches = torch.zeros(1, 6, 6, 6)
    expected = as_in_dino(model.pos_embed, 14, 6)
    expected[0] += model.cls_token[0, 0].detach().numpy()
    with torch.no_grad():
        found = model._pos_embed(patches)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(timm_s._pos_embed(patches)[0].numpy() - expected).max() > 0.1
        at_its_size = torch.randn(1, 14, 14, 6)
        assert torch.equal(model._pos_embed(at_its_size), timm_s._pos_embed(at_its_size))
    set_resampling(model, "antialiased")
    assert torch.equal(model._pos_embed(patches), timm_s._pos_embed(patches))


def test_a_copy_has_positions_of_its_own() -> None:
    model = small(dynamic_img_size=True)
    set_resampling(model, "dino")
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(model.pos_embed)
    assert resampling_of(other) == "dino"
    assert other._pos_embed(torch.zeros(1, 6, 6, 6)).abs().max() > 0.1


@pytest.mark.parametrize("registers", [{}, {"reg_tokens": 2}, {"reg_tokens": 2, "no_embed_class": True}])
def test_tokens_before_the_patches_keep_their_place(registers: dict[str, object]) -> None:
    model, timm_s = small(dynamic_img_size=True, **registers), small(dynamic_img_size=True, **registers)
    set_resampling(model, "dino")
    with torch.no_grad():
        found, expected = (m._pos_embed(torch.zeros(2, 6, 6, 6)) for m in (model, timm_s))
    assert found.shape == expected.shape
    assert torch.equal(found[:, : model.num_prefix_tokens], expected[:, : model.num_prefix_tokens])
    assert not torch.equal(found, expected)


def test_published_weights_of_dino_at_another_size_are_what_its_own_code_computes() -> None:
    entry = replace(BACKBONES.get("dino_vits16"), arguments={"depth": 1})
    state = load_backbone("vit_small_patch16_224", seed=1, depth=1).state_dict()
    torch.nn.init.normal_(state["pos_embed"])
    expected = as_in_dino(state["pos_embed"], 14, 6)
    # iBOT and its successors keep one tensor more.
    converted = convert(entry, {"teacher": {**state, "masked_embed": torch.zeros(1, 384)}}, "file")
    assert list(converted.unused) == ["masked_embed"]
    smaller = build(entry, converted, img_size=96)
    np.testing.assert_allclose(smaller.pos_embed[0].detach().numpy(), expected, atol=1e-5)
    fitted = fit_input_size(build(entry, converted), 96)
    np.testing.assert_allclose(fitted.pos_embed[0].detach().numpy(), expected, atol=1e-5)
    as_timm = build(entry, converted, positions="antialiased", img_size=96)
    assert np.abs(as_timm.pos_embed[0].detach().numpy() - expected).max() > 0.1


def test_families_say_how_their_own_code_resamples() -> None:
    by_name = {entry.name: entry.family.positions for entry in BACKBONES.values()}
    dino = {name for name, how in by_name.items() if how == "dino"}
    plain = {f"dinov2_vit{letter}14" for letter in "sblg"}
    ibot = {"ibot_vits16", "ibot_vitb16", "ibot_vitl16", "plstitch_vitb16"}
    assert dino == {f"dino_vit{size}{patch}" for size in "sb" for patch in (8, 16)} | plain | ibot | {
        "surgenetdino_v1_vits",
        "surgenetdino_v1_vitb",
    }


def test_a_run_with_this_setting_exports_it_and_what_loads_it_goes_on_like_it(tmp_path: Path) -> None:
    save_backbone(load_backbone("vit_tiny_patch16_224", depth=1), tmp_path / "start", extra={})
    config = BackboneConfig(name=str(tmp_path / "start"), position_resampling="dino")
    networks = TimmNetworks(config, seed=0, sizes=[64, 32])
    student, teacher = networks.student(), networks.teacher()
    assert {resampling_of(student), resampling_of(teacher)} == {"dino"}
    save_backbone(student, tmp_path / "b", extra={})
    assert resampling_of(load_backbone(tmp_path / "b")) == "dino"
    assert resampling_of(load_backbone(tmp_path / "b", positions="antialiased")) == "antialiased"
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_backbone(tmp_path / "b").eval()(x), student.eval()(x))
    written = json.loads((tmp_path / "b/config.json").read_text(encoding="utf-8"))
    written["trocar"]["positions"] = "nearest"
    (tmp_path / "b/config.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(TrocarError, match="'nearest' is none of antialiased, dino"):
        load_backbone(tmp_path / "b")


def test_a_table_of_another_kind_of_network_is_refused_and_one_without_has_nothing_to_resample() -> None:
    networks = TimmNetworks(BackboneConfig(name="resnet10t", position_resampling="dino"), seed=0, sizes=[64])
    assert resampling_of(networks.student()) == "antialiased"
    with pytest.raises(
        ConfigError, match=r"this is a VisionTransformerDistilled; use backbone\.position_resampling=anti"
    ):
        load_backbone("deit_tiny_distilled_patch16_224", depth=1, positions="dino")
