"""The phantom's own layout: Cholec80's labels with CVS grades and masks joined to them by native frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_set_factory import write_text, write_video

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.labels import LabelledFrames
from trocar.errors import TrocarError

FPS, FRAMES = 4, 10
VIDEOS = {"video01_1": ("case01", "train"), "video01_2": ("case01", "train"), "video02": ("case02", "test")}
GRADED = {"video01_1": (0, 6), "video02": (4,)}
"""Native frames of key frames; 6 is none of the frames 0, 4, 8 that the other labels are read at."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three videos of 10 frames at 4 fps, written by hand; masks of frames 0, 4, 6 and 8 hold the frame number % 3."""
    (tmp_path / "phantom.json").write_text("{}")
    for video in VIDEOS:
        write_video(tmp_path / f"videos/{video}.mp4", FRAMES, FPS)
        phases = [(k, "Preparation" if k < 5 else "OrganDissection") for k in range(FRAMES)]
        write_text(tmp_path / f"phase_annotations/{video}-phase.txt", [("Frame", "Phase"), *phases])
        tools = [(k, int(k == 4), 1) for k in range(0, FRAMES, FPS)]
        write_text(tmp_path / f"tool_annotations/{video}-tool.txt", [("Frame", "Grasper", "Hook"), *tools])
        for k in (0, 4, 6, 8):
            path = tmp_path / f"semseg/{video}/{video}_{k:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((6, 8), k % 3, dtype=np.uint8)).save(path)
    about = [(video, case, split, FPS) for video, (case, split) in VIDEOS.items()]
    write_text(tmp_path / "videos.csv", [("video", "case_id", "split", "fps"), *about], sep=",")
    rows = [(v, k, 1.0, 0.3333, 0.0, k in ks) for v, ks in GRADED.items() for k in (*ks, ks[0] + 1)]
    write_text(tmp_path / "all_metadata.csv", [("vid", "frame", "C1", "C2", "C3", "is_ds_keyframe"), *rows], sep=",")
    write_text(tmp_path / "seg_label_map.txt", [(0, "background"), (1, "organ"), (2, "tool")], sep=" ")
    return tmp_path


def column(data: LabelledFrames, video: str, name: str) -> list[object]:
    rows: list[object] = data.frames[data.frames["video"] == video][name].tolist()
    return rows


def test_all_four_tasks_are_read_with_case_and_split(root: Path) -> None:
    data = open_dataset(root)
    assert (data.layout, data.tasks) == ("phantom", ("phase", "tools", "cvs", "segmentation"))
    found = {(row.video, row.case, row.split) for row in data.frames.itertuples()}
    assert found == {(video, *about) for video, about in VIDEOS.items()}
    assert data.space("segmentation").classes == ("background", "organ", "tool")
    assert data.space("cvs").soft


def test_a_graded_frame_between_the_seconds_is_a_row_of_its_own_at_its_time(root: Path) -> None:
    data = open_dataset(root)
    assert column(data, "video01_1", "frame") == [0, 4, 6, 8]
    assert column(data, "video01_1", "time_s") == [0.0, 1.0, 1.5, 2.0]
    phase = data.space("phase").classes.index("OrganDissection")
    assert column(data, "video01_1", "phase") == [0, 0, -1, phase]
    assert column(data, "video01_1", "tools/Grasper") == [0, 1, -1, 0]
    assert column(data, "video01_1", "cvs/C2") == [0.3333, -1, 0.3333, -1]
    assert column(data, "video02", "cvs/C1") == [-1, 1.0, -1]


def test_only_key_frames_are_graded(root: Path) -> None:
    data = open_dataset(root)
    assert len(data.rows("cvs")) == 3
    assert 1 not in column(data, "video01_1", "frame")


def test_every_frame_of_the_table_has_the_mask_of_its_native_frame(root: Path) -> None:
    data = open_dataset(root)
    assert len(data.rows("segmentation")) == len(data) == 3 + 3 + 4
    read = data.space("segmentation").read_mask
    assert read is not None
    for row in data.frames.itertuples():
        assert (read(root / str(row.mask)) == row.frame % 3).all()


def test_fewer_frames_a_second_keep_every_graded_frame(root: Path) -> None:
    data = open_dataset(root, options=DatasetOptions(fps=0.5))
    assert column(data, "video01_1", "frame") == [0, 6, 8]
    assert column(data, "video01_2", "frame") == [0, 8]


def test_labels_of_a_video_that_is_not_there_are_left_out(root: Path) -> None:
    (root / "videos/video02.mp4").unlink()
    data = open_dataset(root)
    assert set(data.frames["video"]) == {"video01_1", "video01_2"}
    assert any("video02" in note for note in data.notes)


def test_without_masks_there_is_no_segmentation(root: Path) -> None:
    for path in (root / "semseg").glob("*/*.png"):
        path.unlink()
    assert open_dataset(root).tasks == ("phase", "tools", "cvs")


@pytest.mark.parametrize("name", ["videos.csv", "all_metadata.csv", "seg_label_map.txt"])
def test_a_phantom_that_is_not_finished_is_said_to_be(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(TrocarError, match=f"{name} is missing: this phantom is not finished"):
        open_dataset(root)


def test_a_class_file_that_skips_a_number_is_refused(root: Path) -> None:
    write_text(root / "seg_label_map.txt", [(0, "background"), (2, "tool")], sep=" ")
    with pytest.raises(TrocarError, match="counted from 0"):
        open_dataset(root)


def test_a_mask_whose_name_ends_in_no_number_is_named(root: Path) -> None:
    Image.fromarray(np.zeros((6, 8), dtype=np.uint8)).save(root / "semseg/video02/video02_last.png")
    with pytest.raises(TrocarError, match=r"video02_last\.png: expected a name that ends in the number of its frame"):
        open_dataset(root)
