"""Class remapping files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trocar.downstream.segmentation.remap import Remap, load_remap, remap_names
from trocar.errors import ConfigError, TrocarError

GOOD = """
source: [Background, Liver, Grasper, Hook, Stray]
classes:
  - {name: Other, of: [Background, Liver]}
  - {name: Instrument, of: [Hook, Grasper]}
ignore: [Stray]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "remap.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_pixel_of_an_image_gets_its_new_class(tmp_path: Path) -> None:
    remap = load_remap(write(tmp_path, GOOD))
    mask = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)
    assert remap.apply(mask).tolist() == [[0, 0, 1], [1, 255, 255]]
    assert remap.apply(mask).dtype == np.uint8
    assert remap.names == ("Other", "Instrument")


def test_cholecseg8k_merges_13_classes_to_endovits_8() -> None:
    remap = load_remap("cholecseg8k-8")
    ids = remap.apply(np.arange(13, dtype=np.uint8))
    assert ids.tolist() == [0, 1, 2, 3, 4, 7, 6, 6, 6, 7, 5, 6, 6]
    assert remap.names[5:] == ("Gallbladder", "Misc", "Instruments")


@pytest.mark.parametrize("name", remap_names())
def test_every_file_in_the_package_is_valid(name: str) -> None:
    assert isinstance(load_remap(name), Remap)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("of: [Background, Liver]", "of: [Background]", "source class 'Liver' is in no class and not ignored"),
        ("of: [Hook, Grasper]", "of: [Hook, Grasper, Liver]", "source class 'Liver' is used 2 times"),
        ("ignore: [Stray]", "ignore: [Stray, Hook]", "source class 'Hook' is used 2 times"),
        ("of: [Hook, Grasper]", "of: [Hook, Graspr]", "'Graspr' is no source class .did you mean 'Grasper'"),
        ("Stray]\nclasses", "Stray, Liver]\nclasses", "'Liver' is named twice"),
        ("name: Instrument", "name: Other", "two classes are named 'Other'"),
    ],
)
def test_a_source_class_that_is_missing_doubled_or_unknown_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message):
        load_remap(write(tmp_path, GOOD.replace(old, new)))


def test_values_that_are_no_class_are_refused(tmp_path: Path) -> None:
    remap = load_remap(write(tmp_path, GOOD))
    with pytest.raises(TrocarError, match=r"values \[5, 36\]; source classes are 0 .. 4"):
        remap.apply(np.array([0, 36, 5, 255], dtype=np.uint8))


def test_a_data_set_of_other_classes_or_another_order_is_refused(tmp_path: Path) -> None:
    remap = load_remap(write(tmp_path, GOOD))
    remap.require_source(["Background", "Liver", "Grasper", "Hook", "Stray"])
    with pytest.raises(ConfigError, match="the data set has Liver, Background"):
        remap.require_source(["Liver", "Background", "Grasper", "Hook", "Stray"])


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cholecseg8k-8'"):
        load_remap("cholecseg8k_8")
