"""What a backbone name means, and that every weight is accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone, random_like
from trocar.backbones.preprocess import describe_backbone, fit_input_size
from trocar.backbones.source import find_backbone_folder, resolve
from trocar.errors import ConfigError, TrocarError

TINY = "convnext_atto"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "exported"
    save_backbone(load_backbone(TINY, seed=5), folder, extra={})
    return folder


def test_random_weights_follow_from_the_seed_alone_and_leave_the_global_generator() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, again, other = (
        load_backbone(TINY, seed=1),
        load_backbone(f"random:{TINY}", seed=1),
        load_backbone(TINY, seed=2),
    )
    assert torch.equal(torch.get_rng_state(), before)
    weight = first.state_dict()["stem.0.weight"]
    assert torch.equal(weight, again.state_dict()["stem.0.weight"])
    assert not torch.equal(weight, other.state_dict()["stem.0.weight"])


def test_features_are_pooled() -> None:
    model = load_backbone(TINY).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 320)


def test_exported_weights_come_back_exactly(exported: Path) -> None:
    expected, found = load_backbone(TINY, seed=5).state_dict(), load_backbone(exported, seed=9).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_missing_unused_and_misshapen_keys_are_all_named(exported: Path) -> None:
    file = exported / "model.safetensors"
    state = load_file(file)
    del state["stem.0.bias"]
    state["stranger"] = torch.zeros(1)
    state["stem.0.weight"] = torch.zeros(1, 3, 4, 4)
    save_file(state, file)
    with pytest.raises(TrocarError) as error:
        load_backbone(exported)
    message = str(error.value)
    assert "stem.0.bias: missing" in message
    assert "stranger: stored" in message
    assert "stem.0.weight: shape [1, 3, 4, 4] stored, [40, 3, 4, 4] needed" in message


def test_a_damaged_weights_file_is_an_error(exported: Path) -> None:
    (exported / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(TrocarError, match="cannot be read"):
        load_backbone(exported)


def test_a_new_classifier_on_pretrained_weights_is_drawn_from_the_seed(exported: Path) -> None:
    first, again = load_backbone(exported, seed=3, num_classes=7), load_backbone(exported, seed=3, num_classes=7)
    assert first(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert torch.equal(first.state_dict()["head.fc.weight"], again.state_dict()["head.fc.weight"])
    pretrained = load_backbone(TINY, seed=5).state_dict()["stem.0.weight"]
    assert torch.equal(first.state_dict()["stem.0.weight"], pretrained)


def test_the_baseline_has_the_architecture_and_other_weights(exported: Path) -> None:
    baseline = random_like(exported, seed=0).state_dict()
    trained = load_backbone(exported).state_dict()
    assert {k: v.shape for k, v in baseline.items()} == {k: v.shape for k, v in trained.items()}
    assert not torch.equal(baseline["stem.0.weight"], trained["stem.0.weight"])


def test_a_finished_run_is_preferred_to_its_checkpoints_and_they_are_ordered_by_number(tmp_path: Path) -> None:
    def fill(folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"")
        return folder

    early, late = (fill(tmp_path / f"checkpoints/step-{n}/backbone") for n in (900, 1000))
    assert find_backbone_folder(tmp_path) == late
    assert find_backbone_folder(early.parent) == early
    assert find_backbone_folder(fill(tmp_path / "backbone").parent) == tmp_path / "backbone"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_ato", "did you mean 'convnext_atto'"),
        ("random:resnet81", "did you mean 'resnet18'"),
        ("resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("timm:resnet18.a9_in1k", "timm has no weights"),
        ("runs/none", "no file or folder"),
        ("missing.pth", "no file or folder"),
    ],
)
def test_a_mistyped_name_gets_its_nearest_match(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(name)


def test_a_folder_without_weights_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoints/step-N/backbone"):
        load_backbone(tmp_path)


def test_an_argument_the_architecture_does_not_take_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="does not take"):
        load_backbone("resnet18", patch_size=4)


def test_a_vision_transformer_is_fitted_to_another_input_size() -> None:
    model = load_backbone("vit_tiny_patch16_224", img_size=64)
    assert describe_backbone(model).size == (64, 64)
    assert fit_input_size(model, 96)(torch.zeros(1, 3, 96, 96)).shape == (1, 192)


def test_a_model_of_one_input_size_only_says_so() -> None:
    with pytest.raises(ConfigError, match="224 px images only"):
        fit_input_size(load_backbone("mixer_s32_224"), 96)


def test_normalisation_by_hand() -> None:
    shape = describe_backbone(load_backbone(TINY))
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert shape.normalise(pixels).flatten().tolist() == pytest.approx(expected, abs=1e-6)
