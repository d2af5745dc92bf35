"""PitVis-2023: seconds, 24 or 25 frames per second, two instruments, three names for one number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from video_set_factory import grey, write_text, write_video

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.pitvis import INSTRUMENTS, SPLITS, STEPS
from trocar.downstream.features.frame_cache import FrameCache
from trocar.errors import TrocarError

HEADER = ("int_video", "int_time", "int_step", "int_instrument1", "int_instrument2")
LABELS = [(-1, -1, -2), (1, 0, -2), (11, 1, 16), (-1, -1, -2)]


def make(root: Path) -> Path:
    """Three seconds of video and a fourth label behind them, as in every published file."""
    for number, fps in ((1, 24), (24, 25)):
        write_video(root / f"video_{number:02d}.mp4", 2 * fps + 3, fps)
        rows = [(number, second, *label) for second, label in enumerate(LABELS)]
        write_text(root / f"annotations_{number:02d}.csv", [HEADER, *rows], ",")
    write_video(root / "video_19.mp4", 5, 24)
    names = [(-1, "operation_ended"), (-1, "operation_not_started"), (-1, "out_of_patient")]
    names += [(1, "nasal_corridor_creation "), (2, "anterior_sphenoidotomy")]
    write_text(root / "map_steps.csv", [("int_step", "str_step"), *names], ",")
    tools = [
        (-1, "out_of_patient"),
        (0, "no_visible_instrument"),
        (0, "occluded_image_inside_patient"),
        (16, "suction"),
    ]
    write_text(root / "map_instruments.csv", [("int_instrument", "str_instrument"), *tools], ",")
    return root


def test_seconds_become_frames_by_the_videos_own_rate(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    assert data.layout == "pitvis"
    assert data.frames["video"].tolist() == ["video_01"] * 3 + ["video_24"] * 3
    assert data.frames["frame"].tolist() == [0, 24, 48, 0, 25, 50]
    assert "video_01: 1 labels after the last of 51 frames left out" in data.notes
    assert "videos without labels: video_19" in data.notes
    brightness = FrameCache(data, tmp_path / "cache").get(16).mean((1, 2, 3))
    assert brightness == pytest.approx(np.array([grey(k) for k in (0, 24, 48, 0, 25, 50)]), abs=3)


def test_steps_keep_their_numbers_and_those_outside_of_scoring_stay_labelled(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    space = data.space("step")
    assert data.frames["step"].tolist() == [0, 1, 11] * 2
    assert [space.classes[i] for i in space.unscored] == ["background", "gasket_seal_construct", "nasal_packing"]
    assert (space.classes, len(data.rows("step"))) == (STEPS, 6)


def test_two_instruments_a_second_and_none_out_of_the_patient(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    assert (data.space("tools").classes, len(INSTRUMENTS)) == (INSTRUMENTS, 19)
    one = data.frames[data.frames["video"] == "video_01"]
    assert one["tools/suction"].tolist() == [0, 0, 1]
    assert one["tools/bipolar_forceps"].tolist() == [0, 0, 1]
    assert one["tools/no_visible_instrument"].tolist() == [0, 1, 0]
    assert data.rows("tools").tolist() == [0, 1, 2, 3, 4, 5]  # the challenge scores all of them


def test_the_held_out_lists_leave_out_the_unlabelled_video(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path), options=DatasetOptions(split="held-out-common"))
    assert data.frames.groupby("video")["split"].first().to_dict() == {"video_01": "train", "video_24": "test"}
    for name, split in SPLITS.items():
        assert sorted(v for part in split.values() for v in part) == [v for v in range(1, 26) if v != 19], name


def test_a_map_with_other_numbers_is_refused(tmp_path: Path) -> None:
    write_text(make(tmp_path) / "map_steps.csv", [("int_step", "str_step"), (3, "anterior_sphenoidotomy")], ",")
    with pytest.raises(TrocarError, match="'anterior_sphenoidotomy' has the number 3, expected 2"):
        open_dataset(tmp_path)


def test_a_file_of_another_video_or_an_unknown_step_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    write_text(tmp_path / "annotations_01.csv", [HEADER, (2, 0, 1, 0, -2)], ",")
    with pytest.raises(TrocarError, match="holds labels of video 2"):
        open_dataset(tmp_path)
    write_text(tmp_path / "annotations_01.csv", [HEADER, (1, 0, 0, 0, -2)], ",")
    with pytest.raises(TrocarError, match="row 1: int_step 0: steps are -1 and 1 to 14"):
        open_dataset(tmp_path)
