"""Published names in timm's own registry: weights from a file, and timm's arguments doing what they always do."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from published_files import CASES, Case, small

from trocar.backbones import load_backbone

CAFORMER = next(case for case in CASES if case.name == "surgenetxl_caformer_s18")
VIT = Case(
    "surgenetdino_v2_vits", small(patch=14, image=336, layer_scale=True, mask_token=True, registers=4), dict, 336
)


@pytest.fixture(scope="module", params=[CAFORMER, VIT], ids=lambda case: case.name)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Any, Path]:
    network, content = request.param.build()
    file = tmp_path_factory.mktemp("weights") / "published.pth"
    torch.save(content, file)
    return request.param, network, file


def images(size: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_checkpoint_path_takes_the_published_file(published: tuple[Case, Any, Path]) -> None:
    case, network, file = published
    model = timm.create_model(case.name, checkpoint_path=str(file)).eval()
    with torch.no_grad():
        assert (model(images(case.size)) - network(images(case.size))).abs().max() < 1e-5


def test_a_classifier_is_added_and_the_backbone_kept(published: tuple[Case, Any, Path]) -> None:
    case, network, file = published
    model = timm.create_model(case.name, checkpoint_path=str(file), num_classes=5).eval()
    with torch.no_grad():
        assert model(images(case.size)).shape == (1, 5)
        model.reset_classifier(0)
        assert (model(images(case.size)) - network(images(case.size))).abs().max() < 1e-5


def test_other_channels_sum_to_the_same_answer_on_grey_pictures(published: tuple[Case, Any, Path]) -> None:
    case, network, file = published
    model = timm.create_model(case.name, checkpoint_path=str(file), in_chans=1).eval()
    grey = images(case.size, 1)
    with torch.no_grad():
        assert (model(grey) - network(grey.expand(-1, 3, -1, -1))).abs().max() < 1e-4


def test_features_only_gives_a_pyramid_of_the_loaded_weights(published: tuple[Case, Any, Path]) -> None:
    case, _, file = published
    model = timm.create_model(case.name, checkpoint_path=str(file), features_only=True).eval()
    whole = timm.create_model(case.name, checkpoint_path=str(file)).eval()
    with torch.no_grad():
        maps = model(images(case.size))
        assert [m.shape[1] for m in maps] == model.feature_info.channels()
        assert [case.size // m.shape[-1] for m in maps] == model.feature_info.reduction()
        last = whole.forward_intermediates(images(case.size), intermediates_only=True)[-1]
    strides = {"surgenetxl_caformer_s18": [4, 8, 16, 32], "surgenetdino_v2_vits": [14, 14, 14]}
    assert model.feature_info.reduction()[-4:] == strides[case.name]
    assert torch.allclose(maps[-1], last, atol=1e-5)


def test_another_image_size_resamples_the_position_table(published: tuple[Case, Any, Path]) -> None:
    case, _, file = published
    size = 224
    options = {"img_size": size} if case is VIT else {}
    model = timm.create_model(case.name, checkpoint_path=str(file), **options).eval()
    ours = load_backbone(f"{case.name}@{file}", **options).eval()
    with torch.no_grad():
        assert torch.equal(model(images(size)), ours(images(size)))
    if case is VIT:
        assert model.pos_embed.shape == (1, 256, 384)


def test_a_model_s_own_state_still_loads_as_it_is_and_the_model_can_be_copied(
    published: tuple[Case, Any, Path],
) -> None:
    case, _, file = published
    model = timm.create_model(case.name, checkpoint_path=str(file))
    fresh = copy.deepcopy(timm.create_model(case.name))
    fresh.load_state_dict(model.state_dict())
    again = pickle.loads(pickle.dumps(fresh))
    key = next(iter(model.state_dict()))
    assert torch.equal(again.state_dict()[key], model.state_dict()[key])
    broken = dict(model.state_dict())
    del broken[key]
    with pytest.raises(RuntimeError, match=key):
        fresh.load_state_dict(broken)


def test_pretrained_without_a_fetched_file_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROCAR_WEIGHTS", str(tmp_path))
    with pytest.raises(Exception, match="trocar fetch surgenetxl_caformer_s18"):
        timm.create_model("surgenetxl_caformer_s18", pretrained=True)


@pytest.mark.slow
def test_segmentation_models_take_the_encoders() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    for name in (
        "surgenetxl_caformer_s18",
        "surgenet_convnextv2_tiny",
        "surgenet_pvt_v2_b2",
        "selfsupsurg_dino_resnet50",
    ):
        model = smp.Unet(f"tu-{name}", encoder_weights=None, classes=3).eval()
        with torch.no_grad():
            assert model(images(64)).shape == (1, 3, 64, 64)
    transformer = smp.DPT("tu-surgenetdino_v1_vits", encoder_weights=None, classes=3).eval()
    with torch.no_grad():
        assert transformer(images(224)).shape == (1, 3, 224, 224)
