"""Cholec80-CVS: intervals of a workbook on the last part of what lies before the clipping."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from video_set_factory import write_image, write_text, write_video, write_workbook

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.cholec80_cvs import SPLITS
from trocar.downstream.datasets.readers.label_files import read_sheet
from trocar.errors import ConfigError, TrocarError

TIMES = ("initial_minute", "initial_second", "final_minute", "final_second")
HEADER = ("video", *TIMES, "two_structures", "cystic_plate", "hepatocystic_triangle", "notes")
LAYOUT = "cholec80_cvs"
# The clipping begins at frame 100: the last part begins at second floor(100 * 0.85 / 25) = 3.
ROWS = [(5, 0, 0, 0, 1, 2, 2, 2, None), (5, 0, 3.2, 0, 4, 2, 0, 1, "seen"), (5, 0, 3, 0, 3, 0, 0, 0, None)]


def make(root: Path, rows: list[tuple[object, ...]] | None = None) -> Path:
    write_video(root / "videos/video05.mp4", 150, 25)
    phases = [(k, "CalotTriangleDissection" if k < 100 else "ClippingCutting") for k in range(150)]
    write_text(root / "phase_annotations/video05-phase.txt", [("Frame", "Phase"), *phases])
    write_workbook(root / "surgeons_annotations.xlsx", [HEADER, *(rows or ROWS)])  # type: ignore[list-item]
    return root


def test_criteria_are_mapped_by_name_and_a_score_of_1_or_2_meets_them(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path), LAYOUT, DatasetOptions(fps=5))
    assert data.frames["frame"].tolist() == [75, 80, 85, 90, 95]
    assert data.space("cvs").classes == ("C1", "C2", "C3")
    assert data.frames["cvs/C1"].tolist() == [0, 1, 1, 1, 1]  # the interval begins at frame 80
    assert data.frames["cvs/C2"].tolist() == [0, 1, 1, 1, 1]  # the hepatocystic triangle, third in the workbook
    assert data.frames["cvs/C3"].tolist() == [0, 0, 0, 0, 0]
    assert data.frames["split"].unique().tolist() == ["test"]
    assert data.notes[0] == "3 of 572 intervals are here"


def test_one_frame_a_second_by_default_and_from_images_at_most(tmp_path: Path) -> None:
    assert open_dataset(make(tmp_path), LAYOUT).frames["frame"].tolist() == [75]
    (tmp_path / "videos/video05.mp4").unlink()
    for k in range(1, 7):
        write_image(tmp_path / f"frames/video05/video05_{k:06d}.png")
    frames = open_dataset(tmp_path, LAYOUT, DatasetOptions(fps=5)).frames
    assert frames["path"].tolist() == ["frames/video05/video05_000004.png"]


def test_a_folder_that_is_cholec80_too_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could be any of cholec80, cholec80_cvs; name it with --layout"):
        open_dataset(make(tmp_path))


def test_an_interval_behind_the_clipping_and_a_score_of_3_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match="an interval begins at frame 500, the clipping already at 100"):
        open_dataset(make(tmp_path, [(5, 0, 20, 0, 30, 1, 1, 1, None)]), LAYOUT)
    with pytest.raises(TrocarError, match=r"\.xlsx: row 1: two_structures '3': expected a whole number from 0 to 2"):
        open_dataset(make(tmp_path, [(5, 0, 2, 0, 3, 3, 1, 1, None)]), LAYOUT)


def test_a_phase_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (make(tmp_path) / "phase_annotations/video05-phase.txt").unlink()
    with pytest.raises(TrocarError, match=r"video05-phase\.txt is missing"):
        open_dataset(tmp_path, LAYOUT)


def test_the_official_split_is_50_15_15() -> None:
    parts = {name: list(members) for name, members in SPLITS["official"].items()}
    assert {name: len(members) for name, members in parts.items()} == {"train": 50, "val": 15, "test": 15}
    assert sorted(v for members in parts.values() for v in members) == list(range(1, 81))


def test_a_workbook_with_gaps_is_read_by_the_places_of_its_cells(tmp_path: Path) -> None:
    path = write_workbook(
        tmp_path / "a.xlsx", [("video", "b", "c"), (1, None, "x"), (None, None, None), (2, 3.5, None)]
    )
    table = read_sheet(path, ["video", "b", "c"])
    assert table.rows.tolist() == [1, 3]
    assert table.ids("video").tolist() == ["1", "2"]
    assert table.texts("c").tolist() == ["x", ""]
    assert table.texts("b").tolist() == ["", "3.5"]
    with pytest.raises(TrocarError, match=r"a\.xlsx: row 1: b is empty"):
        table.numbers("b")
    with pytest.raises(TrocarError, match=r"a\.xlsx: no column 'd'; found video"):
        read_sheet(path, ["video", "d"])


def test_a_file_that_is_no_workbook_or_declares_entities_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK not a zip")
    with pytest.raises(TrocarError, match=r"a\.xlsx: not an \.xlsx workbook"):
        read_sheet(path, ["video"])
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", '<!DOCTYPE x [<!ENTITY a "b">]><worksheet/>')
    with pytest.raises(TrocarError, match="declares entities"):
        read_sheet(path, ["video"])
