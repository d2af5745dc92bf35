"""The checks of a GPU, run on a CPU at tiny sizes: each must be able to pass there, and to fail."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trocar.cli.main import main
from trocar.data.loading import dali_stream
from trocar.data.loading.dali_pipeline import is_available
from trocar.diagnostics.gpu import pictures, training
from trocar.diagnostics.gpu.checks import FAST, RIGHT
from trocar.diagnostics.gpu.runner import Subject

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu" / "acceptance.py"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return Subject(torch.device("cpu"), tmp_path_factory.mktemp("gpu") / "catalog")


@pytest.mark.slow
def test_the_whole_script_passes_on_a_cpu(tmp_path, monkeypatch):
    report = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--device", "cpu", "--out", str(report), "--budget", "100000"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    checks = json.loads(report.read_text())["checks"]
    assert [check["name"] for check in checks] == [check.name for check in (*RIGHT, *FAST)]
    needs = {"waits"} if is_available() else {"waits", "parity", "lifetime"}
    assert {check["name"] for check in checks if check["state"] == "skipped"} == needs
    assert [check for check in checks if check["state"] not in ("passed", "measured", "skipped")] == []
    assert ended.value.code == 0


def test_the_script_says_that_there_is_no_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(tmp_path / "r.json")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 2
    assert "--device cpu runs the same at tiny sizes" in capsys.readouterr().err


def test_doctor_says_that_there_is_no_gpu(capsys):
    assert main(["doctor", "--gpu"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_crops_that_change_while_they_wait_to_be_copied_are_found(subject, monkeypatch):
    if not is_available():
        pytest.skip("no DALI here")
    assert pictures.lifetime(subject).passed
    made = dali_stream.DaliStream.__next__
    seen = []

    def overwritten(stream):
        crops = made(stream)
        seen.append(crops)
        late = len(seen) > 4  # the second time through
        other = {name: torch.zeros_like(x) for name, x in crops.crops.items()}
        return replace(crops, crops=other) if late and crops.step == 2 else crops

    monkeypatch.setattr(dali_stream.DaliStream, "__next__", overwritten)
    found = pictures.lifetime(subject)
    assert not found.passed
    assert found.values["wrong_steps"] == [2]


def test_views_that_differ_more_than_rounding_are_found(subject, monkeypatch):
    assert pictures.augmentation(subject).passed
    own = pictures.Crops

    def brighter(step, frames, params, crops, bad):
        return own(step, frames, params, {name: x.clamp(max=254) + 1 for name, x in crops.items()}, bad)

    monkeypatch.setattr(pictures, "Crops", brighter)
    assert not pictures.augmentation(subject).passed


def test_a_loss_or_a_gradient_that_differs_is_found(subject, monkeypatch):
    monkeypatch.setattr(training, "small_methods", lambda: ["simclr"])
    assert training.methods(subject).passed
    own = training._gradient

    def turned(method, views, device, dtype):
        loss, gradient = own(method, views, device, dtype)
        return loss, gradient.flip(0) if dtype == torch.bfloat16 else gradient

    monkeypatch.setattr(training, "_gradient", turned)
    found = training.methods(subject)
    assert not found.passed
    assert "simclr in bfloat16" in found.words


def test_one_rank_is_as_none(subject):
    found = training.one_rank(subject)
    assert found.passed
    assert found.values["backend"] == "gloo"
