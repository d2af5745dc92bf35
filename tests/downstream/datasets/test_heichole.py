"""HeiChole: labels per native frame at 25 or 50 frames per second, files without a header, two spellings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from video_set_factory import grey, write_text, write_video

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.heichole import SPLITS, TOOLS
from trocar.downstream.features.frame_cache import FrameCache
from trocar.errors import TrocarError


def label(root: Path, stem: str, frames: int, phase: str = "Annotation_Phase", kind: str = "Phase") -> None:
    write_text(root / f"Annotations/{kind}/{stem}_{phase}.csv", [(k, k * 7 // frames) for k in range(frames)], ",")


def make(root: Path) -> Path:
    """Video 1 of 3 s at 25 frames per second in one spelling, video 16 of 2 s at 50 in the other."""
    write_video(root / "Videos/Full/Hei-Chole1.mp4", 75, 25)
    write_video(root / "Videos/Full/Hei-Chole16.mp4", 100, 50)
    write_video(root / "Videos/Skill/Hei-Chole1_calot.mp4", 5, 25)
    label(root, "Hei-Chole1", 75)
    label(root, "hei-chole16", 100, "annotation_phase")
    columns = [[int(k >= 50), *[0] * 6, *[0] * 13, 1] for k in range(75)]
    rows = [(k, *row) for k, row in enumerate(columns)]
    write_text(root / "Annotations/Instrument/Hei-Chole1_Annotation_Instrument.csv", rows, ",")
    detailed = root / "Annotations/Instrument/Hei-Chole1_Annotation_Instrument_Detailed.csv"
    write_text(detailed, [(k, *[0] * 31) for k in range(75)], ",")
    write_text(root / "Annotations/Skill/Hei-Chole1_Calot_Skill.csv", [(1, 2, 3, 4, 5)], ",")
    return root


def test_one_label_a_second_at_25_and_at_50_frames_per_second(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    assert data.layout == "heichole"
    assert data.frames["video"].tolist() == ["Hei-Chole1"] * 3 + ["Hei-Chole16"] * 2
    assert data.frames["frame"].tolist() == [0, 25, 50, 0, 50]
    assert data.frames["time_s"].tolist() == [0.0, 1.0, 2.0, 0.0, 1.0]
    assert data.frames["phase"].tolist() == [0, 25 * 7 // 75, 50 * 7 // 75, 0, 3]
    brightness = FrameCache(data, tmp_path / "cache").get(16).mean((1, 2, 3))
    assert brightness == pytest.approx(np.array([grey(k) for k in (0, 25, 50, 0, 50)]), abs=3)


def test_seven_instruments_of_21_columns(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    assert data.space("tools").classes == TOOLS
    assert data.frames["tools/Grasper"].tolist() == [0, 0, 1, -1, -1]
    assert data.frames["tools/Stapler"].tolist() == [0, 0, 0, -1, -1]
    assert "videos without instrument labels: hei-chole16" in data.notes
    assert "175 labelled native frames; the public videos have 1836369" in data.notes


def test_the_official_number_goes_with_every_native_frame(tmp_path: Path) -> None:
    make(tmp_path)
    assert open_dataset(tmp_path).official == {}
    data = open_dataset(tmp_path, options=DatasetOptions(fps=50))
    assert data.missing("phase", "") == (175, 1_836_369)


def test_a_split_on_the_public_videos_goes_by_their_number(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path), options=DatasetOptions(split="surgbenchkit"))
    assert data.frames.groupby("video")["split"].first().to_dict() == {"Hei-Chole1": "test", "Hei-Chole16": "test"}
    assert "split surgbenchkit: 5 of 5 val videos are not here: 6, 19, 10, 8, 20" in data.notes
    assert sorted(v for videos in SPLITS["surgbenchkit"].values() for v in videos) == list(range(1, 25))


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    label(make(tmp_path), "Hei-Chole1", 75)
    rows = [(k, 0, 0) for k in range(75)]
    write_text(tmp_path / "Annotations/Phase/Hei-Chole1_Annotation_Phase.csv", rows, ",")
    with pytest.raises(TrocarError, match="3 columns, expected the frame and 1 labels"):
        open_dataset(tmp_path)


def test_numbers_in_scientific_notation_are_read(tmp_path: Path) -> None:
    make(tmp_path)
    rows = [(f"{k:.18e}", f"{2:.18e}") for k in range(75)]
    write_text(tmp_path / "Annotations/Phase/Hei-Chole1_Annotation_Phase.csv", rows, ",")
    assert open_dataset(tmp_path).frames["phase"].tolist()[:3] == [2, 2, 2]
