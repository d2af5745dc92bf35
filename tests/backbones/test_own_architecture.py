"""A network of somebody's own, registered with timm without a configuration: exported by what it has, or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import _registry, register_model
from torch import Tensor, nn

from trocar.backbones.export import export_timm, require_exportable, save_backbone
from trocar.backbones.load import load_backbone, random_like
from trocar.backbones.preprocess import Preprocessing, describe_backbone
from trocar.cli.main import main
from trocar.errors import ConfigError
from trocar.leakage.exposure import RecordedHistory
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks

__all__: list[str] = []  # filled by timm


class Own(nn.Module):
    def __init__(self, pool: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 5, 7, stride=4)
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.body(images)
        return maps.mean((2, 3)) if self.pool else maps


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    def own_pooled(pretrained: bool = False, num_classes: int = 0, **kwargs: Any) -> nn.Module:
        return Own(pool=True)

    def own_maps(pretrained: bool = False, num_classes: int = 0, **kwargs: Any) -> nn.Module:
        return Own(pool=False)

    before = {name: value.copy() for name, value in vars(_registry).items() if isinstance(value, (dict, set))}
    register_model(own_pooled)
    register_model(own_maps)
    yield
    for name, value in before.items():
        kept = getattr(_registry, name)
        kept.clear()
        kept.update(value)


def test_it_comes_back_with_weights_and_preprocessing(tmp_path: Path) -> None:
    model = load_backbone("own_pooled", seed=3)
    shape = Preprocessing(size=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    save_backbone(model, tmp_path / "out", extra={}, preprocessing=shape)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architecture"], config["num_features"]) == ("own_pooled", 5)
    again = load_backbone(tmp_path / "out", seed=9)
    assert torch.equal(again.state_dict()["body.weight"], model.state_dict()["body.weight"])
    assert describe_backbone(again) == shape
    assert describe_backbone(random_like(tmp_path / "out", seed=1)) == shape


def test_the_card_and_the_command_say_that_timm_alone_leaves_the_weights_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "own_pooled", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "trocar.load_backbone(" in said
    assert "timm.create_model" not in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert "import the module that registers it first" in card
    assert "timm.create_model" not in card
    export_timm("test_resnet", tmp_path / "timms", RecordedHistory())
    assert 'timm.create_model("local-dir:PATH", pretrained=True)' in (tmp_path / "timms" / "README.md").read_text()


def test_one_that_does_not_pool_is_refused_when_the_run_is_set_up() -> None:
    with pytest.raises(ConfigError, match=r"'own_maps' gives \[1, 5, 7, 7\] for a picture, not pooled features"):
        _ = TimmNetworks(BackboneConfig(name="own_maps"), 0, [32]).width


def test_an_argument_that_no_file_can_hold_is_known_before_the_training() -> None:
    model = load_backbone("own_pooled")
    object.__setattr__(model, "_model_args", {"layer": nn.ReLU})
    with pytest.raises(Exception, match="cannot be written as JSON"):
        require_exportable(model, Preprocessing())
