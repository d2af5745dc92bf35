"""classes.yaml beside the names: which class is the background, and whether 255 is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from trocar.downstream.datasets.readers.masks import mask_keys
from trocar.errors import TrocarError

NAMES = ("liver", "Background", "tool")


@pytest.mark.parametrize(
    ("more", "background", "meant"),
    [
        ("", 1, False),
        ("background: tool\n", 2, False),
        ("background:\n", None, False),
        ("background: null\n", None, False),
        ("not_scored: 255\n", 1, True),
    ],
)
def test_keys_of_masks(tmp_path: Path, more: str, background: int | None, meant: bool) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(f"segmentation: [{', '.join(NAMES)}]\n{more}")
    assert mask_keys(path, NAMES) == (background, meant)


def test_without_a_class_of_that_name_there_is_no_background(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("segmentation: [liver, tool]\n")
    assert mask_keys(path, ("liver", "tool")) == (None, False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("background: tol\n", r"background: no class 'tol' \(did you mean 'tool'\?\); classes: liver"),
        ("not_scored: 0\n", r"not_scored: '0': the one value that is not scored is 255"),
    ],
)
def test_other_values_are_refused(tmp_path: Path, more: str, message: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(f"segmentation: [{', '.join(NAMES)}]\n{more}")
    with pytest.raises(TrocarError, match=message):
        mask_keys(path, NAMES)
