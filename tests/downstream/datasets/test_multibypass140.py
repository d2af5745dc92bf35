"""MultiBypass140: folds in pickle files, intervals in JSON with overlays, images or videos."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from video_set_factory import write_image, write_video

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.errors import ConfigError, TrocarError


def interval(start: int, end: int, name: str, number: int) -> dict[str, Any]:
    return {"start": start, "end": end, "label_name": name, "label_id": number}


PHASES = [
    interval(0, 1200, "out_of_body", 12),
    interval(1000, 3500, "preparation", 0),
    interval(2000, 2600, "out_of_body", 12),
    interval(3000, 3600, "severe_index", 13),
    interval(3500, 5000, "gastric_pouch_creation", 1),
]
STEPS = [interval(1000, 3000, "s1_cavity_exploration", 1), interval(4000, 5000, "s5_his_angle_dissection", 5)]


def intervals(root: Path, centre: str = "bern", video: str = "BBP01") -> Path:
    folder = root / f"labels/{centre}/labels_by70"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{video}.mp4.json").write_text(json.dumps({"phases": PHASES, "steps": STEPS}))
    return root


def fold(root: Path, centre: str, number: int, of: dict[str, list[str]]) -> None:
    """Lists as published: `Frame_id` counts from 1, one dictionary a frame."""
    folder = root / f"labels/{centre}/labels_by70_splits/labels"
    for split, videos in of.items():
        name = f"1fps_100_{number}" if split == "train" else f"1fps_{number}"
        records = [{"unique_id": k, "Frame_id": f"img{k}", "Phase_gt": k % 13, "Step_gt": k} for k in (1, 2, 3)]
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{name}.pickle").write_bytes(pickle.dumps(dict.fromkeys(videos, records)))


def test_overlays_are_no_phases_except_where_there_is_none(tmp_path: Path) -> None:
    intervals(tmp_path)
    write_video(tmp_path / "BernBypass70/videos/BBP01.mp4", 125, 25)
    data = open_dataset(tmp_path)
    assert data.layout == "multibypass140"
    assert data.frames["frame"].tolist() == [0, 25, 50, 75, 100]
    space = data.space("phase")
    names = [space.classes[i] for i in data.frames["phase"]]
    assert names == ["out_of_body", "preparation", "preparation", "preparation", "gastric_pouch_creation"]
    assert space.unscored == (12,)
    assert data.frames["step"].tolist() == [-1, 1, 1, -1, 5]
    assert len(data.space("step").classes) == 46
    assert data.space("step").classes[:2] == ("s0", "s1_cavity_exploration")
    assert data.notes == ("1 of 140 videos have labels",)


def test_folds_give_the_labels_and_the_splits_of_a_centre(tmp_path: Path) -> None:
    fold(tmp_path, "bern", 2, {"train": ["BBP01"], "val": ["BBP02"], "test": ["BBP03"]})
    fold(tmp_path, "strasbourg", 2, {"train": ["SBP01"], "val": [], "test": []})
    for video in ("BBP01", "BBP02", "BBP03"):
        for k in (1, 2, 3):
            write_image(tmp_path / f"datasets/BernBypass70/frames/{video}/{video}_{k:08d}.jpg")
    for k in (1, 2, 3):
        write_image(tmp_path / f"labels/strasbourg/labels_by70_splits/frames/SBP01/img{k}.jpg")
    data = open_dataset(tmp_path, options=DatasetOptions(split="bern-fold2"))
    splits = data.frames.groupby("video")["split"].first().to_dict()
    assert splits == {"BBP01": "train", "BBP02": "val", "BBP03": "test", "SBP01": ""}
    one = data.frames[data.frames["video"] == "SBP01"]
    assert one["path"].tolist() == [f"labels/strasbourg/labels_by70_splits/frames/SBP01/img{k}.jpg" for k in (1, 2, 3)]
    assert (one["time_s"].tolist(), one["phase"].tolist(), one["step"].tolist()) == ([0, 1, 2], [1, 2, 3], [1, 2, 3])
    both = open_dataset(tmp_path, options=DatasetOptions(split="both-fold2")).frames
    assert both.groupby("video")["split"].first()["SBP01"] == "train"


def test_a_fold_that_is_not_there_is_named_and_another_name_refused(tmp_path: Path) -> None:
    intervals(tmp_path)
    write_image(tmp_path / "BernBypass70/frames/BBP01/img1.jpg")
    with pytest.raises(TrocarError, match="no lists of fold 0"):
        open_dataset(tmp_path, options=DatasetOptions(split="bern-fold0"))
    with pytest.raises(ConfigError, match="did you mean 'bern-fold"):
        open_dataset(tmp_path, options=DatasetOptions(split="bern-fold"))


def test_a_case_in_two_parts_of_a_fold_is_refused(tmp_path: Path) -> None:
    fold(tmp_path, "bern", 0, {"train": ["BBP01"], "val": [], "test": ["BBP01"]})
    with pytest.raises(TrocarError, match="BBP01 is in train as well"):
        open_dataset(tmp_path)


def test_a_fold_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    fold(tmp_path, "bern", 0, {"train": ["BBP01"], "val": [], "test": []})
    path = tmp_path / "labels/bern/labels_by70_splits/labels/train/1fps_100_0.pickle"
    path.write_bytes(b"cbuiltins\neval\n(S'1'\ntR.")
    with pytest.raises(TrocarError, match=r"refused: it asks for builtins\.eval"):
        open_dataset(tmp_path)


def test_images_that_are_missing_between_others_are_refused(tmp_path: Path) -> None:
    intervals(tmp_path)
    for k in (1, 2, 4, 5):
        write_image(tmp_path / f"BernBypass70/frames/BBP01/img{k}.jpg")
    with pytest.raises(TrocarError, match="1 labelled images of BBP01 are missing, the first is number 3"):
        open_dataset(tmp_path)


def test_a_phase_with_another_phases_number_is_refused(tmp_path: Path) -> None:
    path = intervals(tmp_path) / "labels/bern/labels_by70/BBP01.mp4.json"
    tree = {"phases": [interval(0, 9000, "preparation", 4)], "steps": []}
    path.write_text(json.dumps(tree))
    with pytest.raises(TrocarError, match="phase 'preparation' has the number 4"):
        open_dataset(tmp_path)
