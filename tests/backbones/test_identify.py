"""What a weight file is, told from names and shapes: one fit loads, several ask, none explains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_files import CASES

from trocar.backbones import load_backbone
from trocar.backbones.export import save_backbone
from trocar.backbones.identify import matches
from trocar.cli import main
from trocar.errors import ConfigError, TrocarError


def content(name: str) -> dict:
    case = next(case for case in CASES if case.name == name)
    with torch.device("meta"):
        return case.wrap({k: v for k, v in case.network().state_dict().items() if not k.startswith("fc.")})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_published_file_is_recognised(case) -> None:
    found = [match.entry.name for match in matches(content(case.name))]
    assert case.name in found
    # What else fits has equal names and shapes: another variant of the architecture, or another way to nest it.
    architectures = {match.entry.architecture for match in matches(content(case.name))}
    assert len(architectures) == 1


def test_a_lone_file_loads_where_only_one_entry_fits(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "surgenet_convnextv2_tiny")
    network, stored = case.build()
    torch.save(stored, tmp_path / "w.pth")
    model = load_backbone(tmp_path / "w.pth").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (model(images) - network(images)).abs().max() < 1e-5


def test_a_file_that_fits_several_asks_which(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "surgenetxl_caformer_s18")
    torch.save(case.build()[1], tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"fits surgenet_caformer_s18, .*, surgenetxl_caformer_s18: .*Say which"):
        load_backbone(tmp_path / "w.pth")


def test_a_file_that_fits_nothing_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"net": {"w": torch.ones(2)}}, tmp_path / "w.pth")
    with pytest.raises(TrocarError, match=r"fits none of the published backbones. Its tensors lie under: net \(1\)"):
        load_backbone(tmp_path / "w.pth")


def test_inspect_tells_what_a_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if case.name == "selfsupsurg_mocov2_resnet50")
    torch.save(case.build()[1], tmp_path / "w.torch")
    assert main.main(["inspect", str(tmp_path / "w.torch")]) == 0
    out = capsys.readouterr().out
    for fact in ("SelfSupSurg", "classy_state_dict.base_model.model.trunk", "318 tensors, 23.56 M", "every one fits"):
        assert fact in out
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "other.pth")
    assert main.main(["inspect", str(tmp_path / "other.pth")]) == 1
    assert "w [2, 3]" in capsys.readouterr().out


def test_inspect_tells_what_an_export_is_and_its_fingerprint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_backbone(load_backbone("resnet18", seed=2), tmp_path / "out", extra={"method": "dino", "step": 7})
    assert main.main(["inspect", str(tmp_path / "out"), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "resnet18" in out
    assert "11.19 M values" in out
    pin = out.split("fingerprint")[1].split()[0]
    assert load_backbone("resnet18", seed=2, expect=pin) is not None
    with pytest.raises(TrocarError, match="other weights"):
        load_backbone("resnet18", seed=3, expect=pin)
