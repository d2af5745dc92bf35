"""AutoLaparo: frames and phases count from 1, one label a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from video_set_factory import grey, write_text, write_video

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.autolaparo import TASK_FOLDER
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.features.frame_cache import FrameCache
from trocar.errors import TrocarError


def make(folder: Path, videos: tuple[str, ...] = ("01", "11", "15"), labels: int = 3) -> Path:
    """Videos of 3 s at 25 frames per second; second k has phase k + 1."""
    for video in videos:
        write_video(folder / f"videos/{video}.mp4", 75, 25)
        write_text(folder / f"labels/label_{video}.txt", [("Frame", "Phase"), *((k, k) for k in range(1, labels + 1))])
    return folder


def test_frame_k_is_second_k_minus_1_and_phase_k_class_k_minus_1(tmp_path: Path) -> None:
    make(tmp_path / TASK_FOLDER)
    data = open_dataset(tmp_path)
    one = data.frames[data.frames["video"] == "01"]
    assert one["path"].tolist() == [f"{TASK_FOLDER}/videos/01.mp4"] * 3
    assert one["frame"].tolist() == [0, 25, 50]
    assert one["time_s"].tolist() == [0.0, 1.0, 2.0]
    assert one["phase"].tolist() == [0, 1, 2]
    assert data.space("phase").classes[1] == "Dividing Ligament and Peritoneum"
    brightness = FrameCache(data, tmp_path / "cache").get(16).mean((1, 2, 3))
    assert brightness == pytest.approx(np.array([grey(k) for k in (0, 25, 50)] * 3), abs=3)


def test_the_official_split_and_its_counts_are_the_default(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    assert data.layout == "autolaparo"
    assert data.frames.groupby("video")["split"].first().to_dict() == {"01": "train", "11": "val", "15": "test"}
    assert data.missing("phase", "test") == (3, 28_060)
    assert sum(data.official.values()) == 83_243
    assert "split official: 9 of 10 train videos are not here: 2, 3, 4, 5, 6 and 4 more" in data.notes
    thinned = open_dataset(tmp_path, options=DatasetOptions(fps=0.5))
    assert thinned.frames["frame"].tolist() == [0, 50] * 3
    assert thinned.missing("phase", "test") is None


def test_a_label_behind_the_picture_is_said_and_more_are_refused(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path, ("01",), labels=4))
    assert data.frames["frame"].tolist() == [0, 25, 50]
    assert "01: 1 labels after the last of 75 frames left out" in data.notes
    make(tmp_path, ("01",), labels=6)
    with pytest.raises(TrocarError, match=r"ends at 3\.00 s, but its labels go to second 5"):
        open_dataset(tmp_path)


def test_labels_that_count_from_0_are_refused(tmp_path: Path) -> None:
    make(tmp_path, ("01",))
    write_text(tmp_path / "labels/label_01.txt", [("Frame", "Phase"), (0, 1), (1, 1)])
    with pytest.raises(TrocarError, match=r"row 1: Frame '0': expected a whole number from 1"):
        open_dataset(tmp_path)
    write_text(tmp_path / "labels/label_01.txt", [("Frame", "Phase"), (1, 0)])
    with pytest.raises(TrocarError, match=r"row 1: Phase '0': expected a whole number from 1 to 7"):
        open_dataset(tmp_path)


def test_labels_in_scientific_notation_are_whole_numbers(tmp_path: Path) -> None:
    make(tmp_path, ("01",))
    write_text(tmp_path / "labels/label_01.txt", [("Frame ", "Phase"), ("1.0e+00", "2.000e+00"), ("2.5", 1)])
    with pytest.raises(TrocarError, match=r"label_01\.txt: row 2: Frame '2\.5': expected a whole number from 1"):
        open_dataset(tmp_path)
    write_text(tmp_path / "labels/label_01.txt", [("Frame ", "Phase"), ("1.0e+00", "2.000e+00"), ("3.0e+00", 1)])
    frames = open_dataset(tmp_path).frames
    assert (frames["frame"].tolist(), frames["phase"].tolist()) == ([0, 50], [1, 0])
