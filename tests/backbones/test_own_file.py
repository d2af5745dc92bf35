"""Weights of one's own by architecture and file: strict, and never taken for published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trocar.backbones import identify
from trocar.backbones.export import export_timm, save_backbone
from trocar.backbones.load import load_backbone, random_like
from trocar.backbones.preprocess import describe_backbone
from trocar.backbones.source import origin_of, resolve
from trocar.backbones.weight_names import absolute, identity, is_random, random_name
from trocar.cli import main
from trocar.core.files import sha256_of
from trocar.errors import ConfigError, TrocarError
from trocar.leakage.exposure import RecordedHistory, by_identity, exposure_of
from trocar.leakage.verdict import Verdict

ARCH = "test_vit"
TEST = [("cholec80", "41")]


def state(arch: str = ARCH, seed: int = 3, **kwargs) -> dict[str, torch.Tensor]:
    return load_backbone(arch, seed=seed, **kwargs).state_dict()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    torch.save(state(), tmp_path / "own.pth")
    return tmp_path / "own.pth"


def verdict(name) -> Verdict:
    return Verdict.worst(f.verdict for part in exposure_of(name).parts for f in by_identity(part, TEST))


def test_weights_come_back_exactly_from_both_formats_and_out_of_wrappers(tmp_path: Path, own: Path) -> None:
    save_file(state(), tmp_path / "own.safetensors")
    wrapped = {f"module._orig_mod.{key}": value for key, value in state().items()}
    torch.save({"epoch": 3, "model": wrapped, "optimizer": {"state": {0: torch.ones(1)}}}, tmp_path / "wrapped.pth")
    for file in (own, tmp_path / "own.safetensors", tmp_path / "wrapped.pth"):
        found = load_backbone(f"{ARCH}@{file}", seed=9).state_dict()
        assert found.keys() == state().keys()
        assert all(torch.equal(found[key], value) for key, value in state().items())


def test_a_classifier_may_be_missing_or_left_over_and_nothing_else(tmp_path: Path) -> None:
    torch.save(state(num_classes=5), tmp_path / "w.pth")
    name = f"{ARCH}@{tmp_path / 'w.pth'}"
    assert load_backbone(name)(torch.zeros(1, 3, 160, 160)).shape == (1, 64)
    assert torch.equal(
        load_backbone(name, num_classes=5).state_dict()["head.weight"], state(num_classes=5)["head.weight"]
    )
    assert load_backbone(name, num_classes=7, seed=1).state_dict()["head.weight"].shape == (7, 64)
    broken = state()
    broken["stranger"] = broken.pop("blocks.0.norm1.weight")
    torch.save(broken, tmp_path / "w.pth")
    with pytest.raises(TrocarError) as caught:
        load_backbone(name)
    assert "blocks.0.norm1.weight: missing from the file" in str(caught.value)
    assert "stranger: stored, but this architecture has no such tensor" in str(caught.value)


def test_weights_of_another_architecture_name_the_one_they_fit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(identify, "SIMILAR", 4)
    torch.save(state("test_vit3"), tmp_path / "w.pth")
    with pytest.raises(TrocarError, match=r"(?s)\.\.\. and \d+ more.*It fits test_vit3"):
        load_backbone(f"{ARCH}@{tmp_path / 'w.pth'}")
    torch.save({f"encoder.{key}": value for key, value in state().items()}, tmp_path / "w.pth")
    with pytest.raises(TrocarError, match=r"All keys begin with 'encoder.': save that module's own state_dict"):
        load_backbone(f"{ARCH}@{tmp_path / 'w.pth'}")


def test_a_file_with_several_networks_is_asked_for_one(tmp_path: Path) -> None:
    torch.save({"model": state(seed=1), "model_ema": state(seed=2)}, tmp_path / "w.pth")
    name = f"{ARCH}@{tmp_path / 'w.pth'}"
    with pytest.raises(ConfigError, match=r"keeps tensors in several places; .*#model, #model_ema"):
        load_backbone(name)
    with pytest.raises(ConfigError, match=r"has no 'teacher'"):
        load_backbone(f"{name}#teacher")
    found = load_backbone(f"{name}#model_ema").state_dict()
    assert torch.equal(found["cls_token"], state(seed=2)["cls_token"])


def test_weights_for_another_input_size_keep_their_position_table(tmp_path: Path) -> None:
    torch.save(state(img_size=96), tmp_path / "w.pth")
    name = f"{ARCH}@{tmp_path / 'w.pth'}"
    model = load_backbone(name)
    assert describe_backbone(model).size == (96, 96)
    assert torch.equal(model.state_dict()["pos_embed"], state(img_size=96)["pos_embed"])
    assert describe_backbone(load_backbone(name, img_size=64, dynamic_img_size=False)).size == (64, 64)


def test_a_tag_says_how_pictures_are_normalised_and_nothing_of_the_weights(own: Path, tmp_path: Path) -> None:
    torch.save(state("mobilenetv4_conv_small"), own)
    plain, tagged = (f"mobilenetv4_conv_small{tag}@{own}" for tag in ("", ".e3600_r256_in1k"))
    assert describe_backbone(load_backbone(plain)).mean == (0.485, 0.456, 0.406)
    assert describe_backbone(load_backbone(tagged)).mean == (0.5, 0.5, 0.5)
    assert verdict(tagged) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vot@{}", "is called 'test_vot' .did you mean 'test_vit'"),
        ("test_vit@{}.gone", "test_vit@.*: no file"),
        ("test_vit@{}/..", "is a folder; a run or an exported backbone is named without"),
        ("{}", r"For weights of your own name their timm architecture, such as resnet50@"),
    ],
)
def test_a_name_that_leads_nowhere_says_the_way(own: Path, name: str, message: str) -> None:
    folder = own.parent / "own"
    folder.mkdir()
    with pytest.raises(TrocarError, match=message):
        resolve(name.format(folder if "/.." in name else own))


def test_the_verdict_on_own_weights_is_unknown_also_after_an_export(own: Path, tmp_path: Path) -> None:
    name = f"{ARCH}@{own}"
    assert verdict(name) is Verdict.UNKNOWN
    origin = origin_of(load_backbone(name))
    assert origin is not None
    assert (origin.name, origin.sha256, origin.licence) == (f"{ARCH}@own.pth", sha256_of(own), "unknown")
    export_timm(name, tmp_path / "export", RecordedHistory())
    assert verdict(tmp_path / "export") is Verdict.UNKNOWN
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"The first weights are {ARCH}@own.pth, licence unknown" in card
    assert "| cholec80 | unknown |" in card


def test_weights_laid_beside_the_history_of_others_are_unknown(tmp_path: Path) -> None:
    export_timm(f"random:{ARCH}", tmp_path / "export", RecordedHistory())
    assert verdict(tmp_path / "export") is Verdict.CLEAN
    file = tmp_path / "export" / "model.safetensors"
    other = {key: value + 1 for key, value in load_file(file).items()}
    save_file(other, file, metadata={"format": "pt"})
    assert verdict(tmp_path / "export") is Verdict.UNKNOWN


def test_a_study_names_own_weights_by_their_content_from_any_folder(own: Path, monkeypatch) -> None:
    monkeypatch.chdir(own.parent)
    name = f"{ARCH}@own.pth"
    assert absolute(name) == f"{ARCH}@{own}"
    assert absolute(f"dino_vits16@{own.name}#teacher") == f"dino_vits16@{own}#teacher"
    before = identity(name)
    assert before == {"kind": "file", "name": ARCH, "part": "", "sha256": sha256_of(own)}
    torch.save(state(seed=8), own)
    assert identity(name) != before
    assert not is_random(name)
    assert random_name(name) == f"random:{ARCH}"
    assert random_like(name, seed=0).state_dict().keys() == state().keys()


def test_inspect_tells_what_own_weights_are(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["inspect", f"{ARCH}@{own}", "--verify"]) == 0
    out = capsys.readouterr().out
    assert "every one fits" in out
    assert "not recorded" in out
    pin = out.split("fingerprint")[1].split()[0]
    assert load_backbone(f"{ARCH}@{own}", expect=pin) is not None
    assert main.main(["inspect", f"{ARCH}@{own}.gone"]) == 2
    assert main.main(["inspect", str(own)]) == 1
    assert "weights of your own are named ARCH@FILE" in capsys.readouterr().out


def test_a_file_with_an_at_sign_in_its_name_is_a_file(own: Path, tmp_path: Path) -> None:
    save_backbone(load_backbone(ARCH), tmp_path / "a@b", extra={})
    assert resolve(tmp_path / "a@b").kind == "folder"
    own.rename(tmp_path / "x@y.pth")
    with pytest.raises(TrocarError, match="fits none of the published backbones"):
        resolve(tmp_path / "x@y.pth")
    assert load_backbone(f"{ARCH}@{tmp_path / 'x@y.pth'}") is not None
