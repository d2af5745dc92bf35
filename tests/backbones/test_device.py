"""`device: auto` never becomes the CPU where a GPU was given."""

import errno
import os

import pytest
import torch

from trocar.backbones import device
from trocar.backbones.device import allocated, choose_device, hidden
from trocar.backbones.preprocess import prediction_batch
from trocar.errors import ConfigError


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """One without a GPU, a driver or a variable of SLURM."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(device, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def test_without_any_sign_of_a_gpu_auto_is_the_cpu(machine):
    assert choose_device("auto") == "cpu"
    with pytest.raises(ConfigError, match=r"run\.device=cuda, but torch sees no GPU"):
        choose_device("cuda", "run.device")


def test_with_a_gpu_auto_is_the_gpu(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(wanted) for wanted in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]


@pytest.mark.parametrize(
    ("name", "value"), [("CUDA_VISIBLE_DEVICES", "0,1"), ("SLURM_JOB_GPUS", "3"), ("SLURM_STEP_GPUS", "0")]
)
def test_gpus_that_were_given_and_torch_does_not_see_are_an_error_with_both_versions(machine, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ConfigError, match=rf"\({name}={value}\).*no NVIDIA driver is loaded; .* for CUDA 13.0"):
        choose_device("auto")
    (machine / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12\n"
    )
    with pytest.raises(ConfigError, match=r"driver 535.104.05; .*run.device=cpu runs on the CPU all the same"):
        choose_device("auto", "run.device")
    assert choose_device("cpu") == "cpu"


def test_a_torch_without_cuda_is_named(machine, monkeypatch):
    (machine / "dev" / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match=r"nvidia0.*is built without CUDA"):
        choose_device("auto")


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles", "-1,0"])
def test_gpus_hidden_on_purpose_are_not_looked_for(machine, monkeypatch, value):
    (machine / "dev" / "nvidia0").touch()
    assert hidden() == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    assert choose_device("auto") == "cpu"
    assert hidden() == f"CUDA_VISIBLE_DEVICES={value!r}"


def test_files_of_a_gpu_count_unless_a_cluster_keeps_them_for_others(machine, monkeypatch):
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (machine / "dev" / name).touch()
    assert allocated() == ""
    for number in range(8):
        (machine / "dev" / f"nvidia{number}").touch()
    assert allocated() == f"{machine / 'dev' / 'nvidia0'}, {machine / 'dev' / 'nvidia1'} ..."
    fails = errno.EPERM

    def refuse(path, flags):
        raise OSError(fails, os.strerror(fails))

    monkeypatch.setattr(os, "open", refuse)
    assert allocated() == ""
    fails = errno.ENXIO  # the driver went away
    assert allocated() != ""


def test_an_evaluation_refuses_as_a_pretraining_does(machine, monkeypatch, capsys):
    from trocar.cli.main import main

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    where = [f"data.catalog={machine}", f"run.out={machine / 'run'}"]
    for words in (
        ["evaluate", "--backbone", "random:resnet18", "--data", str(machine), "--task", "phase", "--out", "scores"],
        ["pretrain", "small_dino", *where],
    ):
        assert main(words) == 2
        assert "there are GPUs here (CUDA_VISIBLE_DEVICES=0), but torch sees none" in capsys.readouterr().err


def test_what_does_not_fit_is_computed_in_halves_and_so_is_every_batch_after_it() -> None:
    tried: list[int] = []

    def compute(images: torch.Tensor) -> torch.Tensor:
        tried.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images * 2

    halves = device.Halves(torch.device("cpu"), enabled=True)
    for _ in range(2):
        assert torch.cat([*halves(compute, torch.arange(9))]).tolist() == [*range(0, 18, 2)]
    assert tried == [9, 4, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1]


def test_memory_that_is_refused_is_an_error_without_halves_and_for_a_single_image() -> None:
    def compute(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for enabled, images in ((False, 4), (True, 1)):
        with pytest.raises(torch.OutOfMemoryError):
            [*device.Halves(torch.device("cpu"), enabled)(compute, torch.zeros(images))]


def test_a_gpu_predicts_as_many_at_a_time_as_through_a_frozen_network_and_a_cpu_as_many_as_it_trains_on() -> None:
    assert [prediction_batch(16, "cpu"), prediction_batch(16, "cuda"), prediction_batch(999, "cuda:1")] == [
        16,
        512,
        999,
    ]
