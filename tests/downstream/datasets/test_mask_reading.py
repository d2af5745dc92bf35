"""Masks as files: grey, in three channels, with alpha, with a palette."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trocar.downstream.datasets.masks import read_grey, read_indices
from trocar.errors import TrocarError

VALUES = np.array([[0, 1, 2]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_equal_channels_are_one_value(tmp_path: Path, mode: str) -> None:
    Image.fromarray(VALUES).convert(mode).save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png", 3).tolist() == [[0, 1, 2]]


def test_in_a_palette_the_index_counts_not_the_colour(tmp_path: Path) -> None:
    image = Image.fromarray(VALUES).copy()
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png", 3).tolist() == [[0, 1, 2]]
    with pytest.raises(TrocarError, match="its channels differ"):
        read_grey(tmp_path / "m.png")


def test_other_values_and_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png", 4).tolist() == [[0, 3, 255]]
    with pytest.raises(TrocarError, match=r"holds \[3\], but there are 3 classes \(0 to 2"):
        read_indices(tmp_path / "m.png", 3)
    (tmp_path / "m.png").write_text("../train/m.png")
    with pytest.raises(TrocarError, match="cannot be decoded as a mask"):
        read_grey(tmp_path / "m.png")
