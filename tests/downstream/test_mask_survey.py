"""Masks are looked through before anything is learned: aspect, classes that nobody drew, white that means a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ingest_clips import constant, make_clip
from PIL import ExifTags, Image

from trocar.cli.main import main
from trocar.downstream import mask_survey
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.labels import LabelledFrames
from trocar.downstream.mask_survey import check_masks, same_aspect, survey
from trocar.errors import TrocarError

SHAPE = (12, 16)


def make(root: Path, masks: dict[str, np.ndarray], more: str = "", picture: tuple[int, int] = SHAPE) -> LabelledFrames:
    """A picture of (height, width) `picture` for every mask, in the layout `folder`."""
    for name, mask in masks.items():
        Image.fromarray(mask).save(root / f"{name}_m.png")
        Image.fromarray(np.full((*picture, 3), 99, np.uint8)).save(root / f"{name}.png")
    rows = [{"path": f"{name}.png", "case": name, "mask": f"{name}_m.png"} for name in masks]
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
    (root / "classes.yaml").write_text(f"segmentation: [background, tool, liver]\n{more}")
    return open_dataset(root)


def filled(*values: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """The values from the first pixel on, the rest 0."""
    mask = np.zeros(shape, np.uint8)
    mask.flat[: len(values)] = values
    return mask


def test_a_survey_tells_the_classes_of_every_mask_and_whether_pixels_are_not_scored(tmp_path: Path) -> None:
    data = make(tmp_path, {"a": filled(1), "b": filled(2, 255), "c": filled()})
    found = survey(data, data.space("segmentation"))
    assert found.astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("masks", "lost"),
    [({"a": filled(255), "b": filled()}, "'tool', 'liver'"), ({"a": filled(1, 255), "b": filled(1)}, "'liver'")],
)
def test_a_class_that_no_mask_has_beside_white_is_refused(
    tmp_path: Path, masks: dict[str, np.ndarray], lost: str
) -> None:
    data = make(tmp_path, masks)
    with pytest.raises(
        TrocarError, match=rf"no mask has a pixel of {lost}, but 1 of 2 masks hold 255 \(the first is a_m"
    ):
        check_masks(data, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_white_beside_all_classes_and_classes_that_are_missing_without_white_are_fine(tmp_path: Path) -> None:
    for name, masks in (("all", [filled(1, 2, 255)]), ("few", [filled(1)])):
        (tmp_path / name).mkdir()
        check_masks(make(tmp_path / name, {"a": masks[0]}), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_white_that_is_said_to_be_meant_is_fine(tmp_path: Path) -> None:
    check_masks(make(tmp_path, {"a": filled(255)}, "not_scored: 255\n"), tmp_path / "cache")


def test_merging_classes_does_not_hide_that_one_is_written_as_white(tmp_path: Path) -> None:
    make(tmp_path, {"a": filled(1, 255)})
    (tmp_path / "remap.yaml").write_text(
        "classes: [other, tool]\nmerge: {background: other, tool: tool, liver: ignore}\n"
    )
    data = open_dataset(tmp_path, options=DatasetOptions(remap=str(tmp_path / "remap.yaml")))
    with pytest.raises(TrocarError, match="no mask has a pixel of 'liver'"):
        check_masks(data, tmp_path / "cache")


def test_a_mask_of_another_aspect_than_its_picture_is_named(tmp_path: Path) -> None:
    data = make(tmp_path, {"a": filled(1), "b": filled(1, shape=(12, 12))})
    with pytest.raises(TrocarError, match=r"b_m\.png: the mask has 12 x 12 pixels, its picture b\.png 16 x 12;"):
        check_masks(data, tmp_path / "cache")


def test_a_mask_on_its_side_is_said_to_be(tmp_path: Path) -> None:
    data = make(tmp_path, {"a": filled(1, shape=SHAPE[::-1])})
    with pytest.raises(TrocarError, match=r"12 x 16 pixels, its picture a.png 16 x 12: one of them lies on its side"):
        check_masks(data, tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_mask_fits_the_picture_that_stands_upright(tmp_path: Path, suffix: str) -> None:
    """The file has 16 x 12 pixels and says that it is to be turned a quarter."""
    make(tmp_path, {"a": filled(1)})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = tmp_path / f"a.{suffix}"
    Image.fromarray(np.full((*SHAPE, 3), 99, np.uint8)).save(picture, exif=exif)
    (tmp_path / "frames.csv").write_text(f"path,case,mask\n{picture.name},a,a_m.png\n")
    with pytest.raises(TrocarError, match=r"16 x 12 pixels, its picture a\.\w+ 12 x 16: one of them lies on its side"):
        check_masks(open_dataset(tmp_path), tmp_path / "cache")
    Image.fromarray(filled(1, shape=SHAPE[::-1])).save(tmp_path / "a_m.png")
    check_masks(open_dataset(tmp_path), tmp_path / "cache")


def test_masks_of_frames_of_a_video_are_held_against_the_video(tmp_path: Path) -> None:
    make_clip(tmp_path / "v.mp4", constant(25, 3))  # 96 x 32
    (tmp_path / "classes.yaml").write_text("segmentation: [background, tool]\n")
    (tmp_path / "frames.csv").write_text("path,frame,time_s,case,mask\nv.mp4,1,0.04,a,m.png\n")
    Image.fromarray(filled(1, shape=(16, 48))).save(tmp_path / "m.png")
    check_masks(open_dataset(tmp_path), tmp_path / "cache")
    Image.fromarray(filled(1, shape=(32, 32))).save(tmp_path / "m.png")
    with pytest.raises(TrocarError, match=r"the mask has 32 x 32 pixels, its picture v\.mp4 96 x 32"):
        check_masks(open_dataset(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((854, 480), (427, 240), True),
        ((854, 480), (256, 144), True),
        ((1920, 1080), (1920, 1088), False),
        ((1920, 1080), (1080, 1920), False),
        ((1280, 1024), (640, 480), False),
        ((720, 576), (1024, 576), False),
    ],
)
def test_aspects_are_equal_to_the_rounding_of_a_pixel(a: tuple[int, int], b: tuple[int, int], same: bool) -> None:
    assert same_aspect(a, b) is same_aspect(b, a) is same


def test_masks_are_looked_through_once_and_again_when_a_file_or_the_rules_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(tmp_path, {"a": filled(1)})
    seen: list[int] = []

    def counted(*given: object) -> np.ndarray:
        seen.append(1)
        return survey(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(mask_survey, "survey", counted)
    check_masks(data, tmp_path / "cache")
    check_masks(data, tmp_path / "cache")
    assert len(seen) == 1
    Image.fromarray(filled(1, 2)).save(tmp_path / "a_m.png", compress_level=0)
    check_masks(data, tmp_path / "cache")
    monkeypatch.setattr(mask_survey, "FORMAT", "masks-0")
    check_masks(data, tmp_path / "cache")
    assert len(seen) == 3


def test_evaluate_and_inspect_stop_at_such_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, {name: filled(255) for name in "abcd"})
    words = ["evaluate", "--data", str(tmp_path), "--task", "segmentation", "protocol=[segmentation]", "bootstrap=0"]
    assert main([*words, "baselines=[majority]", "size=16", "folds=2", f"cache={tmp_path / 'cache'}"]) == 1
    assert "no mask has a pixel of 'tool', 'liver', but 4 of 4 masks hold 255" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path)]) == 1
    assert "say `not_scored: 255` in classes.yaml" in capsys.readouterr().err
