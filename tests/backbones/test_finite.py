"""NaN and infinity in weights are refused by name, on every way in and out; so are features that are not finite."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trocar.backbones.export import export_timm, save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import require_finite_features
from trocar.backbones.weights_file import require_finite
from trocar.cli.main import main
from trocar.errors import TrocarError
from trocar.leakage.exposure import RecordedHistory
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.blocks.teachers import FrozenConfig

TINY = "test_resnet"
WHERE = "layer1.0.conv1.weight: NaN or infinity among its values"


@pytest.fixture(params=[math.nan, math.inf])
def poisoned(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "poisoned"
    save_backbone(load_backbone(TINY), folder, extra={})
    state = load_file(folder / "model.safetensors")
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = request.param
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_folder_is_refused_with_the_name_of_the_tensor(poisoned: Path) -> None:
    with pytest.raises(TrocarError, match=WHERE) as error:
        load_backbone(poisoned)
    assert str(error.value).startswith(f"{poisoned}: ")
    assert "bn1" not in str(error.value)


def test_an_export_copies_no_such_weights_and_leaves_nothing(poisoned: Path, tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match=WHERE):
        export_timm(poisoned, tmp_path / "out", RecordedHistory())
    assert not (tmp_path / "out").exists()


def test_the_inspection_of_a_folder_that_does_not_load_fails(
    poisoned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(poisoned), "--verify"]) == 1
    assert WHERE in capsys.readouterr().err


def test_it_starts_no_training_and_teaches_none(poisoned: Path) -> None:
    networks = TimmNetworks(BackboneConfig(name=str(poisoned)), 0, [32])
    with pytest.raises(TrocarError, match=WHERE):
        networks.student()
    with pytest.raises(TrocarError, match=rf"method\.teacher: [\s\S]*{WHERE}"):
        FrozenConfig(name=str(poisoned)).build(TimmNetworks(BackboneConfig(name=TINY), 0, [32]))


def test_timms_own_weights_are_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model

    def downloaded(name: str, pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        model = create(name, **kwargs)
        with torch.no_grad():
            model.state_dict()["bn1.running_var"][0] = math.nan
        return model

    monkeypatch.setattr(timm, "create_model", downloaded)
    with pytest.raises(TrocarError, match=r"bn1\.running_var: NaN or infinity"):
        load_backbone("timm:test_resnet.r160_in1k")


def test_a_network_that_diverged_is_not_written(tmp_path: Path) -> None:
    model = load_backbone(TINY)
    with torch.no_grad():
        model.state_dict()["layer1.0.conv1.weight"].fill_(math.inf)
    with pytest.raises(TrocarError, match=WHERE):
        save_backbone(model, tmp_path / "out", extra={})
    assert not (tmp_path / "out").exists()


def test_a_bound_that_is_not_set_may_be_infinite_and_no_more() -> None:
    require_finite({"input_min": torch.tensor(-math.inf), "steps": torch.tensor([3])}, "x")
    with pytest.raises(TrocarError, match="input_min"):
        require_finite({"input_min": torch.tensor(math.nan)}, "x")


def test_many_tensors_are_counted_not_listed() -> None:
    state = {f"t{i}": torch.full((2,), math.nan) for i in range(20)}
    with pytest.raises(TrocarError, match=r"t11: [^\n]*\n  \.\.\. and 8 more$"):
        require_finite(state, "x")


def test_features_name_the_frame_of_the_table() -> None:
    features = np.zeros((3, 4), np.float32)
    require_finite_features(features, "net")
    features[1, 2] = np.inf
    with pytest.raises(TrocarError, match=r"^net gives features that are NaN or infinite, the first for frame 17;"):
        require_finite_features(features, "net", np.array([5, 17, 20]))
