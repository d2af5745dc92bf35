"""Weight files are read without running anything in them, and a file that is something else is named."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trocar.backbones.weights_file import read_checkpoint
from trocar.errors import ConfigError, TrocarError


class Config(dict):
    """What a training framework pickles beside its weights."""


def test_names_and_shapes_are_read_without_data(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    nested, flat = (read_checkpoint(tmp_path / name, data=False) for name in ("w.pth", "w.safetensors"))
    for found in (nested["model"], flat):
        assert {k: (tuple(v.shape), v.device.type) for k, v in found.items()} == {
            "a.weight": ((2, 3), "meta"),
            "b": ((4,), "meta"),
        }
    assert torch.equal(read_checkpoint(tmp_path / "w.safetensors")["a.weight"], tensors["a.weight"])


def test_the_arguments_of_a_training_script_do_no_harm(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(arch="vit", lr=0.1), "w": torch.ones(2)}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth")["args"].arch == "vit"


def test_a_pickle_that_needs_code_is_refused_and_the_way_to_convert_it_works(tmp_path: Path) -> None:
    file = tmp_path / "w.torch"
    torch.save({"model": Config(w=torch.ones(2)), "config": Config(lr=0.1)}, file)
    with pytest.raises(TrocarError) as refused:
        read_checkpoint(file)
    assert "test_checkpoint_file.Config" in str(refused.value)
    script = str(refused.value).split("<<'END'\n")[1].split("\nEND")[0]
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=120)
    converted = read_checkpoint(tmp_path / "w.tensors.pth")
    assert torch.equal(converted["model"]["w"], torch.ones(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"not weights at all", "no torch or safetensors file"),
    ],
)
def test_what_only_looks_like_weights_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(TrocarError, match=message):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_cut_off_or_missing_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no file"):
        read_checkpoint(tmp_path / name)
    tensors = {"w": torch.ones(1000)}
    save_file(tensors, tmp_path / name) if name.endswith("safetensors") else torch.save(tensors, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1500])
    with pytest.raises(TrocarError, match=r"fetch it again|damaged"):
        read_checkpoint(tmp_path / name)


def test_a_lone_tensor_is_no_weight_file(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "w.pt")
    with pytest.raises(TrocarError, match="holds a Tensor, not named tensors"):
        read_checkpoint(tmp_path / "w.pt")
