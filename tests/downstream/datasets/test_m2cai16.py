"""M2CAI16: labels beside videos, the split by folder, other text files left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from video_set_factory import write_text, write_video

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.errors import ConfigError, TrocarError

TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")


def workflow(root: Path) -> Path:
    """One training and one test video of the same number; 3 s at 25 frames per second."""
    for stem in ("train_dataset/workflow_video_01", "test_dataset/test_workflow_video_01"):
        write_video(root / f"{stem}.mp4", 75, 25)
        phases = [(k, "TrocarPlacement" if k < 25 else "Preparation") for k in range(76)]
        write_text(root / f"{stem}.txt", [("Frame", "Phase"), *phases])
        write_text(root / f"{stem}_timestamp.txt", [("Frame", "Phase"), ("00:00:00.00", "TrocarPlacement")])
        write_text(root / f"{stem}_pred.txt", [("Frame", "Phase"), (0, "Preparation")])
    return root


def tools(root: Path) -> Path:
    for stem in ("train_dataset/tool_video_02", "test_dataset/tool_video_11"):
        write_video(root / f"{stem}.mp4", 60, 25)
        rows = [(k, 1, 0, int(k > 0), 0, 0, 0, 0) for k in (0, 25, 50)]
        write_text(root / f"{stem}.txt", [("Frame", *TOOLS), *rows])
        write_text(root / f"{stem}_pred.txt", [("Frame", *TOOLS), (0, *[0.5] * 7)])
    return root


def test_the_workflow_videos_of_both_folders_are_different_cases(tmp_path: Path) -> None:
    data = open_dataset(workflow(tmp_path))
    assert data.layout == "m2cai16_workflow"
    assert data.frames.groupby("case")["split"].first().to_dict() == {
        "test_workflow_video_01": "test",
        "workflow_video_01": "train",
    }
    train = data.frames[data.frames["split"] == "train"]
    assert train["frame"].tolist() == [0, 25, 50]
    assert train["phase"].tolist() == [0, 1, 1]
    assert data.space("phase").classes[:2] == ("TrocarPlacement", "Preparation")
    assert len(data.space("phase").classes) == 8
    assert {"1 of 27 train videos are here", "1 of 14 test videos are here"} <= set(data.notes)
    assert "workflow_video_01: 1 labels after the last of 75 frames left out" in data.notes


def test_the_workflow_rate_is_taken_from_the_native_labels(tmp_path: Path) -> None:
    data = open_dataset(workflow(tmp_path), options=DatasetOptions(fps=5, split="official"))
    one = data.frames[data.frames["video"] == "workflow_video_01"]
    assert one["frame"].tolist() == list(range(0, 75, 5))
    assert one["time_s"].tolist()[:3] == pytest.approx([0, 0.2, 0.4])


def test_a_workflow_video_that_is_missing_is_said(tmp_path: Path) -> None:
    (workflow(tmp_path) / "test_dataset/test_workflow_video_01.mp4").unlink()
    data = open_dataset(tmp_path)
    assert data.frames["split"].unique().tolist() == ["train"]
    assert "labelled videos that are missing: test_workflow_video_01" in data.notes


def test_tools_are_mapped_by_their_column_names(tmp_path: Path) -> None:
    root = tools(tmp_path)
    path = root / "train_dataset/tool_video_02.txt"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    write_text(path, [[row[0], *row[:0:-1]] for row in rows])  # the same columns in reverse
    data = open_dataset(root)
    assert (data.layout, data.space("tools").classes) == ("m2cai16_tool", TOOLS)
    for video, split in (("tool_video_02", "train"), ("tool_video_11", "test")):
        one = data.frames[data.frames["video"] == video]
        assert one["frame"].tolist() == [0, 25, 50]
        assert one["split"].unique().tolist() == [split]
        assert one["tools/Hook"].tolist() == [0, 1, 1]
        assert one["tools/Grasper"].tolist() == [1, 1, 1]
        assert one["tools/SpecimenBag"].tolist() == [0, 0, 0]
    assert open_dataset(root, options=DatasetOptions(fps=0.5)).frames["frame"].tolist() == [0, 50, 0, 50]


def test_the_only_split_is_the_official_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="M2CAI16 has one: official"):
        open_dataset(tools(tmp_path), options=DatasetOptions(split="40-40"))


def test_a_tool_of_another_name_is_refused(tmp_path: Path) -> None:
    path = tools(tmp_path) / "train_dataset/tool_video_02.txt"
    path.write_text(path.read_text().replace("Grasper", "Graspr"))
    with pytest.raises(TrocarError, match=r"'Graspr'.*did you mean 'Grasper'"):
        open_dataset(tmp_path)
