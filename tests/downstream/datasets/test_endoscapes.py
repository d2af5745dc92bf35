"""Endoscapes2023: soft CVS labels of key frames, masks whose images are links, budgets by folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.endoscapes import CLASSES, OFFICIAL
from trocar.errors import ConfigError, TrocarError


def record(name: str, ds: list[float], key: bool = True) -> dict[str, Any]:
    video, number = map(int, name.removesuffix(".jpg").split("_"))
    return {
        "file_name": name,
        "height": 480,
        "width": 854,
        "id": video * 1_000_000 + number,
        "is_det_keyframe": False,
        "ds": ds,
        "video_id": video,
        "is_ds_keyframe": key,
    }


def write_split(root: Path, split: str, labels: dict[str, list[float]], between: tuple[str, ...] = ()) -> None:
    (root / split).mkdir(parents=True)
    for name in (*labels, *between):
        Image.new("RGB", (8, 4)).save(root / split / name)
    images = [record(name, ds) for name, ds in labels.items()]
    (root / split / "annotation_ds_coco.json").write_text(json.dumps({"images": images, "annotations": []}))
    videos = sorted({int(name.partition("_")[0]) for name in labels})
    (root / f"{split}_vids.txt").write_text("".join(f"{video:.18e}\n" for video in videos))


def write_mask(root: Path, split: str, name: str, values: list[int]) -> None:
    """The mask, and in `<split>_seg` the link to the image as archive programs unpack it: a short text."""
    (root / "semseg").mkdir(exist_ok=True)
    mask = np.tile(np.array(values, np.uint8)[:, None], (4, 1, 3))
    Image.fromarray(mask).save(root / "semseg" / f"{name}.png")
    (root / f"{split}_seg").mkdir(exist_ok=True)
    (root / f"{split}_seg" / f"{name}.jpg").write_text(f"../{split}/{name}.jpg")


def make(root: Path) -> Path:
    third = 1 / 3
    train = {"8_14775.jpg": [third, third, 0.0], "8_14900.jpg": [1.0, 2 * third, 0.0], "9_100.jpg": [0.0, 0.0, 0.0]}
    write_split(root, "train", train, between=("8_14800.jpg", "8_14825.jpg"))
    write_split(root, "val", {"121_25.jpg": [1.0, 1.0, 1.0]})
    write_split(root, "test", {"162_50.jpg": [0.0, third, 0.0]})
    write_mask(root, "train", "8_14825", [0, 1, 2, 3, 4, 5, 6, 255])
    write_mask(root, "train", "8_14900", [0] * 8)
    write_mask(root, "test", "162_50", [6] * 8)
    return root


def test_criteria_are_the_mean_of_the_annotators_on_key_frames_only(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    space = data.space("cvs")
    assert (data.layout, space.classes, space.soft) == ("endoscapes", ("C1", "C2", "C3"), True)
    labelled = data.frames.iloc[data.rows("cvs")].set_index("path")
    assert sorted(labelled.index) == [
        "test/162_50.jpg",
        "train/8_14775.jpg",
        "train/8_14900.jpg",
        "train/9_100.jpg",
        "val/121_25.jpg",
    ]
    assert labelled.loc["train/8_14900.jpg", list(space.columns)].tolist() == pytest.approx([1, 2 / 3, 0])
    assert labelled.loc["train/8_14775.jpg", "time_s"] == 591.0
    assert "train/8_14800.jpg" not in set(data.frames["path"])
    assert "train: 2 frames between key frames, not labelled themselves, left out" in data.notes


def test_a_frame_that_is_listed_but_no_key_frame_is_left_out(tmp_path: Path) -> None:
    make(tmp_path)
    file = tmp_path / "val/annotation_ds_coco.json"
    images = [record("121_25.jpg", [1.0, 1.0, 1.0]), record("121_50.jpg", [1.0, 1.0, 1.0], key=False)]
    file.write_text(json.dumps({"images": images}))
    frames = open_dataset(tmp_path).frames
    assert frames["path"][frames["split"] == "val"].tolist() == ["val/121_25.jpg"]


def test_images_of_masks_are_found_by_name_not_through_links(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    space = data.space("segmentation")
    labelled = data.frames.iloc[data.rows("segmentation")].set_index("path")
    assert labelled["mask"].to_dict() == {
        "test/162_50.jpg": "semseg/162_50.png",
        "train/8_14825.jpg": "semseg/8_14825.png",
        "train/8_14900.jpg": "semseg/8_14900.png",
    }
    assert space.read_mask is not None
    assert space.read_mask(tmp_path / "semseg/8_14825.png")[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 255]
    assert space.classes == CLASSES
    assert data.frames.set_index("path").loc["train/8_14825.jpg", "cvs/C1"] == -1


def test_one_row_carries_both_tasks(tmp_path: Path) -> None:
    frames = open_dataset(make(tmp_path)).frames
    both = frames[frames["path"] == "train/8_14900.jpg"]
    assert both[["cvs/C1", "mask", "case", "split"]].to_numpy().tolist() == [[1.0, "semseg/8_14900.png", "8", "train"]]


def test_a_mask_of_unknown_classes_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    write_mask(tmp_path, "train", "8_14825", [0, 7])
    space = open_dataset(tmp_path).space("segmentation")
    assert space.read_mask is not None
    with pytest.raises(TrocarError, match=r"holds \[7\], but there are 7 classes"):
        space.read_mask(tmp_path / "semseg/8_14825.png")


def test_official_counts(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    assert data.missing("cvs", "test") == (1, 1799)
    assert data.missing("segmentation", "train") == (2, 343)
    assert sum(count for (task, _), count in OFFICIAL.items() if task == "cvs") == 11_090
    assert sum(count for (task, _), count in OFFICIAL.items() if task == "segmentation") == 493


def test_budgets_are_the_videos_named_in_their_folders(tmp_path: Path) -> None:
    make(tmp_path)
    for k, name in enumerate(("8_14775.jpg", "9_100.jpg", "8_14900.jpg")):
        folder = tmp_path / f"12_5/train_{k}"
        folder.mkdir(parents=True)
        (folder / name).write_text("../../train/" + name)
    images = [record("8_14775.jpg", [0, 0, 0]), record("9_100.jpg", [0, 0, 0])]
    (tmp_path / "12_5/train_2/annotation_ds_coco.json").write_text(json.dumps({"images": images}))
    data = open_dataset(tmp_path)
    assert data.budgets == {"endoscapes-12.5%": (("8",), ("9",), ("8", "9"))}
    assert "12_5/train_0: 1 videos, published are 15" in data.notes
    (tmp_path / "12_5/train_1/121_25.jpg").write_text("../../val/121_25.jpg")
    with pytest.raises(TrocarError, match=r"train_1: video 121 is not a training video"):
        open_dataset(tmp_path)


def test_lists_in_scientific_notation_must_agree_with_the_published_split(tmp_path: Path) -> None:
    make(tmp_path)
    assert (tmp_path / "val_vids.txt").read_text() == "1.210000000000000000e+02\n"
    (tmp_path / "val_seg_vids.txt").write_text("8.000000000000000000e+00\n")
    with pytest.raises(TrocarError, match=r"val_seg_vids\.txt: lists video 8, which is not in the published val split"):
        open_dataset(tmp_path)


def test_a_video_in_another_folder_than_published_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"130_25.jpg": [0, 0, 0]})
    with pytest.raises(TrocarError, match="video 130 lies in train/"):
        open_dataset(tmp_path)


def test_missing_parts_are_said(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"8_25.jpg": [0, 0, 0]})
    write_mask(tmp_path, "train", "8_75", [0])
    data = open_dataset(tmp_path)
    assert data.notes == (
        "no val/annotation_ds_coco.json, so no val frames of cvs",
        "no test/annotation_ds_coco.json, so no test frames of cvs",
        "1 masks without an image in train/, val/ or test/ left out, first 8_75.png",
    )
    assert data.tasks == ("cvs",)
    (tmp_path / "train/8_25.jpg").unlink()
    with pytest.raises(TrocarError, match=r"1 labelled files are missing, the first is train/8_25\.jpg"):
        open_dataset(tmp_path)


def test_unknown_splits_and_broken_files_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match="no published split 'offical'"):
        open_dataset(tmp_path, options=DatasetOptions(split="offical"))
    file = tmp_path / "val/annotation_ds_coco.json"
    file.write_text(json.dumps({"images": [record("121_25.jpg", [1.0])]}))
    with pytest.raises(TrocarError, match=r"121_25\.jpg: expected a name"):
        open_dataset(tmp_path)
    file.write_text("{")
    with pytest.raises(TrocarError, match="not valid JSON"):
        open_dataset(tmp_path)
