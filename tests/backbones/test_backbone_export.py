"""An export is an ordinary timm folder: timm alone loads it and gives the same features."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trocar.backbones.export import export_timm, save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import Preprocessing
from trocar.errors import ConfigError, TrocarError
from trocar.leakage.exposure import RecordedHistory

WITHOUT_TROCAR = """
import sys, numpy, torch
sys.modules["trocar"] = None
import timm
for folder in sys.argv[1:]:
    model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
    with torch.inference_mode():
        numpy.save(folder + "/out.npy", model(torch.from_numpy(numpy.load(folder + "/in.npy"))).numpy())
"""


def test_timm_alone_gives_identical_features_with_arguments_kept(tmp_path: Path) -> None:
    cases = {
        "convnext_atto": ({"drop_path_rate": 0.1}, 64),
        "resnet18": ({}, 64),
        "vit_tiny_patch16_224": ({"img_size": 96, "class_token": False, "global_pool": "avg"}, 96),
    }
    expected = {}
    torch.set_num_threads(1)
    for name, (arguments, size) in cases.items():
        model = load_backbone(name, seed=3, **arguments).eval()
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        save_backbone(model, tmp_path / name, extra={"steps": 3})
        np.save(tmp_path / name / "in.npy", images.numpy())
        with torch.inference_mode():
            expected[name] = model(images).numpy()
    command = [sys.executable, "-c", WITHOUT_TROCAR, *(str(tmp_path / name) for name in cases)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=120)
    for name in cases:
        assert np.array_equal(np.load(tmp_path / name / "out.npy"), expected[name]), name


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_backbone(load_backbone("convnext_atto", seed=1), tmp_path / name, extra={"k": 1})
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_configuration_says_how_to_preprocess_and_nothing_of_published_weights(tmp_path: Path) -> None:
    shape = Preprocessing(size=(96, 96), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    save_backbone(load_backbone("resnet18"), tmp_path, extra={"steps": 3}, preprocessing=shape)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("resnet18", 0, 512)
    assert config["pretrained_cfg"]["mean"] == [0.5, 0.4, 0.3]
    assert config["pretrained_cfg"]["input_size"] == [3, 96, 96]
    weights = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert config["trocar"] == {"steps": 3, "weights_sha256": weights}
    assert not {"url", "hf_hub_id", "license", "origin_url"} & config["pretrained_cfg"].keys()


def test_the_classifier_is_left_out(tmp_path: Path) -> None:
    model = load_backbone("resnet18", seed=4, num_classes=5)
    save_backbone(model, tmp_path, extra={})
    headless = load_backbone(tmp_path).state_dict()
    assert torch.equal(headless["conv1.weight"], model.state_dict()["conv1.weight"])
    assert set(model.state_dict()) - set(headless) == {"fc.weight", "fc.bias"}


def test_what_is_not_timm_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match="only backbones of"):
        save_backbone(torch.nn.Linear(2, 2), tmp_path, extra={})


def test_a_run_is_exported_with_a_card_that_says_what_the_run_says(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_backbone(load_backbone("resnet18"), run / "checkpoints/step-20/backbone", extra={"cases": 12})
    (run / "metrics").mkdir()
    (run / "metrics/0001.jsonl").write_text('{"step": 20, "time": 1.0, "loss": 6.25}\n')
    (run / "config.yaml").write_text("method: dino\nsteps: 20\n")
    out = tmp_path / "out"
    assert export_timm(run, out, RecordedHistory()) == str(run / "checkpoints/step-20/backbone")
    card = (out / "README.md").read_text()
    for fact in ("resnet18", "checkpoint step-20", "method: dino", "| loss | 6.25 |", "cases: 12"):
        assert fact in card
    assert load_backbone(out).num_features == 512


def test_nothing_is_overwritten_and_a_missing_run_is_named(tmp_path: Path) -> None:
    save_backbone(load_backbone("resnet18"), tmp_path / "run/backbone", extra={})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="not empty"):
        export_timm(tmp_path / "run", tmp_path / "out", RecordedHistory())
    with pytest.raises(ConfigError, match="no file or folder"):
        export_timm(tmp_path / "gone", tmp_path / "new", RecordedHistory())


WITHOUT_TROCAR_BUT_THE_FOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
import architectures
"""


@pytest.mark.slow
def test_an_architecture_timm_has_no_name_for_comes_with_its_own_file(tmp_path: Path) -> None:
    for name, size in (("random:surgenetxl_caformer_s18", 64), ("random:surgenetdino_v3_vits", 336)):
        folder = tmp_path / name.removeprefix("random:")
        model = load_backbone(name, seed=3).eval()
        images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        export_timm(name, folder, RecordedHistory())
        np.save(folder / "in.npy", images.numpy())
        script = WITHOUT_TROCAR_BUT_THE_FOLDER + WITHOUT_TROCAR
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        subprocess.run(
            [sys.executable, "-c", script, str(folder)], check=True, cwd=tmp_path, env=environment, timeout=120
        )
        with torch.inference_mode():
            expected = load_backbone(folder).eval()(images)
            assert torch.allclose(torch.from_numpy(np.load(folder / "out.npy")), expected, atol=1e-6)
        assert load_backbone(folder).state_dict().keys() == model.state_dict().keys()
        assert "import architectures" in (folder / "README.md").read_text()


def test_origin_is_inherited_by_exports_and_named_in_the_card(tmp_path: Path) -> None:
    from published_files import CASES

    from trocar.backbones.source import origin_of

    case = next(case for case in CASES if case.name == "surgenet_convnextv2_tiny")
    torch.save(case.build()[1], tmp_path / "w.pth")
    name = f"{case.name}@{tmp_path / 'w.pth'}"
    export_timm(name, tmp_path / "first", RecordedHistory())
    save_backbone(load_backbone(tmp_path / "first"), tmp_path / "second", extra={"method": "dino"})
    for folder in (tmp_path / "first", tmp_path / "second"):
        assert origin_of(load_backbone(folder)) == origin_of(load_backbone(name))
        assert json.loads((folder / "config.json").read_text())["architecture"] == "convnextv2_tiny"
    card = (tmp_path / "first" / "README.md").read_text()
    facts = ("license: cc-by-nc-sa-4.0", "| cholec80 | 76 of 80", "| cholec80 | test case seen unlabelled |", "sha256")
    for fact in facts:
        assert fact in card


@pytest.mark.slow
def test_onnx_takes_any_batch_and_gives_torch_s_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    from trocar.cli import main

    save_backbone(
        load_backbone("convnext_atto", seed=5),
        tmp_path / "run/backbone",
        extra={},
        preprocessing=Preprocessing(size=(64, 64)),
    )
    out = tmp_path / "model.onnx"
    assert main.main(["export", str(tmp_path / "run"), "--format", "onnx", "--out", str(out)]) == 0
    session = onnxruntime.InferenceSession(str(out))
    model = load_backbone(tmp_path / "run").eval()
    for batch in (1, 5):
        images = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            expected = model(images).numpy()
        (found,) = session.run(None, {"images": images.numpy()})
        assert np.abs(found - expected).max() < 1e-4
    assert main.main(["export", str(tmp_path / "run"), "--format", "onnx", "--out", str(out)]) == 2
    assert "exists; choose another --out" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "run"]


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path: Path) -> None:
    save_backbone(load_backbone("resnet18"), tmp_path, extra={})
    modes = {(tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def test_a_network_whose_features_are_not_finite_is_not_kept_as_onnx(tmp_path: Path) -> None:
    from trocar.backbones import export

    model = load_backbone("resnet18")
    with torch.no_grad():
        model.bn1.weight[0] = float("nan")
    model.pretrained_cfg["input_size"] = (3, 64, 64)
    with pytest.raises(TrocarError, match="nothing is kept"):
        export.export_onnx(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
