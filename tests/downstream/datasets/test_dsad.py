"""DSAD: one binary task per organ's folder, one task of seven organs in multilabel/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.dsad import COMBINED, SPLITS, read_binary_mask, read_organ_masks
from trocar.errors import TrocarError

WHITE = 255


def write(folder: Path, name: str, values: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.array(values, np.uint8), (2, 1))).save(folder / f"{name}.png")


def make_multilabel(root: Path) -> Path:
    for surgery in ("01", "03", "32"):
        folder = root / "multilabel" / surgery
        write(folder, "image00", [9, 9, 9, 9])
        write(folder, "image11", [9, 9, 9, 9])
        write(folder, "mask00_abdominal_wall", [WHITE, 0, 0, 0])
        write(folder, "mask00_small_intestine", [0, WHITE, WHITE, 0])
        write(folder, "mask00_liver", [0, 0, WHITE, 0])
        (folder / "weak_labels.csv").write_text("images00.png,1,0,0,0,1,0,0,0,0,0,0,0,\n")
    return root


def make_liver(root: Path) -> Path:
    for surgery in ("01", "02"):
        folder = root / "liver" / surgery
        write(folder, "image00", [9, 9])
        write(folder, "mask00", [0, WHITE])
        write(folder / "anno_1", "mask00", [WHITE, WHITE])
    return root


def test_seven_organs_are_one_mask_and_an_overlap_is_not_scored(tmp_path: Path) -> None:
    data = open_dataset(make_multilabel(tmp_path))
    space = data.space("segmentation")
    assert (data.layout, space.classes) == ("dsad", ("background", *COMBINED))
    assert data.frames["path"].tolist()[:2] == ["multilabel/01/image00.png", "multilabel/01/image11.png"]
    assert (data.frames["mask"] == data.frames["path"]).all()
    assert space.read_mask is not None
    assert space.read_mask(tmp_path / "multilabel/01/image00.png").tolist() == [[1, 5, 255, 0]] * 2


def test_a_mask_that_is_missing_is_an_organ_out_of_sight(tmp_path: Path) -> None:
    make_multilabel(tmp_path)
    assert read_organ_masks(tmp_path / "multilabel/01/image11.png").tolist() == [[0, 0, 0, 0]] * 2


def test_the_folder_multilabel_itself_can_be_opened(tmp_path: Path) -> None:
    make_multilabel(tmp_path)
    data = open_dataset(tmp_path / "multilabel")
    assert data.frames["path"].tolist()[0] == "01/image00.png"
    assert len(data.space("segmentation").classes) == 8


def test_an_organs_folder_is_a_binary_task(tmp_path: Path) -> None:
    make_liver(tmp_path)
    data = open_dataset(tmp_path / "liver")
    space = data.space("segmentation")
    assert space.classes == ("background", "liver")
    assert data.frames[["path", "mask", "case"]].to_numpy().tolist() == [
        ["01/image00.png", "01/mask00.png", "01"],
        ["02/image00.png", "02/mask00.png", "02"],
    ]
    assert read_binary_mask(tmp_path / "liver/01/mask00.png").tolist() == [[0, 1]] * 2


def test_the_whole_set_without_multilabel_says_which_folders_to_open(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match=r"for one organ open its folder: liver"):
        open_dataset(make_liver(tmp_path))
    make_liver(tmp_path / "x")
    (tmp_path / "x/liver").rename(tmp_path / "x/hepar")
    with pytest.raises(TrocarError, match="the folder's name says which organ"):
        open_dataset(tmp_path / "x/hepar")


def test_the_published_split_has_every_surgery_once(tmp_path: Path) -> None:
    split = SPLITS["kolbinger23"]
    assert {part: len(list(surgeries)) for part, surgeries in split.items()} == {"train": 21, "val": 3, "test": 8}
    assert sorted(s for surgeries in split.values() for s in surgeries) == list(range(1, 33))
    frames = open_dataset(make_multilabel(tmp_path)).frames
    assert frames.groupby("case")["split"].first().to_dict() == {"01": "train", "03": "val", "32": "test"}


def test_missing_surgeries_are_said_and_a_missing_binary_mask_is_an_error(tmp_path: Path) -> None:
    make_liver(tmp_path)
    note = open_dataset(tmp_path / "liver").notes[0]
    assert note.startswith("no images of the surgeries 03, 04, ")
    (tmp_path / "liver/02/mask00.png").unlink()
    with pytest.raises(TrocarError, match=r"the first is 02/mask00\.png"):
        open_dataset(tmp_path / "liver")


def test_masks_of_strange_organs_or_sizes_are_refused(tmp_path: Path) -> None:
    make_multilabel(tmp_path)
    write(tmp_path / "multilabel/01", "mask00_spleen", [0, 0])
    with pytest.raises(TrocarError, match=r"mask00_spleen\.png: its size"):
        read_organ_masks(tmp_path / "multilabel/01/image00.png")
    write(tmp_path / "multilabel/01", "mask11_ureter", [0, 0])
    with pytest.raises(TrocarError, match=r"mask11_ureter\.png: no organ of multilabel/"):
        read_organ_masks(tmp_path / "multilabel/01/image11.png")


def test_masks_of_0_and_1_are_refused_since_their_organ_would_be_lost(tmp_path: Path) -> None:
    write(tmp_path, "mask00", [0, 1])
    with pytest.raises(TrocarError, match=r"mask00\.png: its largest value is 1; an organ is published as white"):
        read_binary_mask(tmp_path / "mask00.png")
    write(tmp_path, "mask00", [0, 0])
    assert read_binary_mask(tmp_path / "mask00.png").tolist() == [[0, 0], [0, 0]]


def test_the_organ_masks_beside_a_picture_are_the_files_of_its_mask(tmp_path: Path) -> None:
    for name in ("image00", "mask00_liver", "mask00_colon", "mask01_liver"):
        write(tmp_path / "multilabel/01", name, [0, WHITE])
    write(tmp_path / "multilabel/01", "image01", [0, 0])
    space = open_dataset(tmp_path).space("segmentation")
    found = space.files_at(tmp_path / "multilabel/01/image00.png")
    assert [path.name for path in found] == ["mask00_colon.png", "mask00_liver.png"]
