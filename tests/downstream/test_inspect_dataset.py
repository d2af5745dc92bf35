"""`trocar inspect` of a labelled data set: what it is, its splits and classes, what is off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_factory import make_catalog
from downstream_factory import make_cholec80, make_folder
from PIL import Image, ImageColor
from video_set_factory import write_text, write_video, write_workbook

from trocar.cli.main import main
from trocar.downstream import inspect_dataset
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DATASETS
from trocar.downstream.figures.style import colour
from trocar.downstream.inspect_dataset import contact_sheet
from trocar.downstream.labels import LabelledFrames, LabelSpace


def autolaparo(root: Path) -> Path:
    for video, phases in (("01", (1, 2, 2)), ("15", (2, 2, 7))):
        write_video(root / f"videos/{video}.mp4", 75, 25)
        write_text(root / f"labels/label_{video}.txt", [("Frame", "Phase"), *enumerate(phases, start=1)])
    return root


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Printed lines with one blank between words."""
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_splits_balance_and_official_counts_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(autolaparo(tmp_path))]) == 0
    lines = shown(capsys)
    assert f"{tmp_path}: autolaparo, 6 labelled frames, 2 videos, 2 cases" in lines
    assert ["official train 1 3 3" in lines, "official test 1 3 3" in lines] == [True, True]
    assert ["Preparation 1 0" in lines, "Washing 0 1" in lines] == [True, True]
    assert "official frames, phase, test: 28060, 3 found" in lines
    assert "note: split official: 6 of 7 test videos are not here: 16, 17, 18, 19, 20 and 1 more" in lines


def test_every_published_split_list_of_the_data_set_is_shown(tmp_path: Path) -> None:
    data = open_dataset(make_cholec80(tmp_path))
    tables = inspect_dataset.split_columns(data, DATASETS.get("cholec80"))
    assert list(tables) == ["40-40", "32-8-40", "40-8-32", "rivoir-60-20"]
    assert set(tables["40-40"]) == {"train"}


def test_the_data_sets_own_split_is_shown_as_such(tmp_path: Path) -> None:
    make_cholec80(tmp_path)
    rows = [("video01", "train"), ("video02", "train"), ("video03", "test")]
    pd.DataFrame(rows, columns=["video", "split"]).to_csv(tmp_path / "videos.csv", index=False)
    data = open_dataset(tmp_path)
    tables = inspect_dataset.split_columns(data, DATASETS.get("cholec80"))
    assert list(tables) == ["its own"]
    assert tables["its own"].tolist() == ["train"] * 8 + ["test"] * 4
    space = data.space("phase")
    assert inspect_dataset.class_counts(data, space, (tables["its own"] == "train").to_numpy())[:3] == [4, 4, 0]
    assert inspect_dataset.class_counts(data, data.space("tools"), (tables["its own"] == "test").to_numpy()) == [4, 2]


def test_an_error_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (autolaparo(tmp_path) / "videos").iterdir():
        path.unlink()
    assert main(["inspect", str(tmp_path)]) == 1
    assert "no labelled frames found" in capsys.readouterr().err


def test_a_folder_that_is_nothing_hears_what_a_data_set_would_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    assert main(["inspect", str(tmp_path)]) == 2
    assert "autolaparo: videos/01.mp4 with labels/label_01.txt" in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_two_layouts_is_shown_as_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "videos/video05.mp4", 60, 25)
    phases = [(k, "Preparation" if k < 50 else "ClippingCutting") for k in range(60)]
    write_text(tmp_path / "phase_annotations/video05-phase.txt", [("Frame", "Phase"), *phases])
    columns = ("initial_minute", "initial_second", "final_minute", "final_second")
    criteria = ("two_structures", "cystic_plate", "hepatocystic_triangle")
    write_workbook(tmp_path / "surgeons_annotations.xlsx", [("video", *columns, *criteria), (5, 0, 1, 0, 2, 1, 1, 1)])
    assert main(["inspect", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "cholec80, 3 labelled frames" in text
    assert "cholec80_cvs, 1 labelled frames" in text
    assert "name one with --layout cholec80" in text


def test_verify_decodes_and_a_sheet_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "data", cases=2, frames=4)
    sheet = tmp_path / "sheet.png"
    assert main(["inspect", str(tmp_path / "data"), "--verify", "--sheet", str(sheet)]) == 0
    assert "verified: 8 of 8 labelled frames can be decoded" in capsys.readouterr().out
    with Image.open(sheet) as image:
        assert image.size == (1280, 112 + 2 * 12 + 4)  # eight frames are one row
        pixel = image.convert("RGB").getpixel((160 + 80, 80))
    assert sum(pixel) / 3 == pytest.approx(60, abs=12)  # the second frame of the first case is of phase 0, no tool
    (tmp_path / "data/images/0_001.png").write_bytes(b"broken")
    assert main(["inspect", str(tmp_path / "data"), "--verify"]) == 1
    assert "0_001.png: not an image, a text file" in capsys.readouterr().err


def test_masks_lie_over_their_pictures_and_the_background_does_not(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (100, 100, 100)).save(tmp_path / "a.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 16:32], mask[:, 48:] = 1, 255
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    frames = pd.DataFrame(
        [("a.png", -1, "c", "v", 0.0, "train", "a_mask.png")],
        columns=["path", "frame", "case", "video", "time_s", "split", "mask"],
    )
    space = LabelSpace("segmentation", "mask", ("nothing", "liver"), read_mask=read_png, background=0)
    sheet = contact_sheet(LabelledFrames(tmp_path, "own", frames, (space,)))
    colours = [sheet.getpixel((x, 60)) for x in (20, 60, 100, 140)]  # quarters of the picture
    liver = ImageColor.getrgb(colour(1))
    assert colours == [(100,) * 3, tuple(round(50 + c / 2) for c in liver), (100,) * 3, (100,) * 3]
    assert sheet.getpixel((6, 112 + 2 * 12 + 4 + 8)) == liver


def read_png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_shards_and_empty_folders_are_no_data_set(tmp_path: Path) -> None:
    make_catalog(tmp_path / "shards", 1, 2)
    (tmp_path / "empty").mkdir()
    assert not inspect_dataset.recognises(tmp_path / "shards")
    assert not inspect_dataset.recognises(tmp_path / "empty")
    assert not inspect_dataset.recognises(tmp_path / "nowhere.pth")
