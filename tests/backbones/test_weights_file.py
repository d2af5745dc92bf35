"""Weights are written in the bytes of safetensors' own writer, and hashed on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trocar.backbones.weights_file import write_weights
from trocar.core.files import sha256_of
from trocar.errors import TrocarError

TYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool),
)


def tensors() -> dict[str, torch.Tensor]:
    """Of every type, and in the shapes and strides that networks have."""
    generator = torch.Generator().manual_seed(0)
    kinds = {
        f"kind.{number}": torch.randint(0, 2, (3, 5), generator=generator).to(kind) for number, kind in enumerate(TYPES)
    }
    image = torch.randn(4, 3, 2, 2, generator=generator)
    return {
        **kinds,
        "conv.weight": image.to(memory_format=torch.channels_last),
        "a.count": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "größe": image[1:3, 0],
    }


def test_the_bytes_are_those_of_the_library_and_so_is_the_hash(tmp_path: Path) -> None:
    given = tensors()
    digest = write_weights(given, tmp_path / "ours")
    save_file(
        {k: v.clone(memory_format=torch.contiguous_format) for k, v in given.items()},
        tmp_path / "theirs",
        {"format": "pt"},
    )
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert digest == sha256_of(tmp_path / "theirs")


def test_tensors_that_share_memory_are_each_written(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    write_weights({"a": weight, "b": weight, "c": weight[2:4]}, tmp_path / "w")
    assert {k: v.tolist() for k, v in load_file(tmp_path / "w").items()} == {
        "a": weight.tolist(),
        "b": weight.tolist(),
        "c": [2.0, 3.0],
    }


def test_numbers_that_the_format_does_not_have_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match=r"w cannot hold torch\.complex128"):
        write_weights({"a": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_for_the_group_where_the_umask_lets_it(tmp_path: Path) -> None:
    write_weights({"a": torch.zeros(2)}, tmp_path / "w")
    (tmp_path / "reference").touch()
    assert (tmp_path / "w").stat().st_mode == (tmp_path / "reference").stat().st_mode
