"""CholecInstanceSeg: polygons of instruments become semantic masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.cholec_instance_seg import CLASSES, SPLITS, read_mask
from trocar.downstream.features.frame_cache import FrameCache
from trocar.errors import TrocarError


def square(label: str, left: int, top: int, right: int, bottom: int, group: int = 1) -> dict[str, Any]:
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "points": points, "group_id": group, "shape_type": "polygon"}


def write(folder: Path, name: str, shapes: list[dict[str, Any]]) -> Path:
    for kind in ("img_dir", "ann_dir"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8)).save(folder / f"img_dir/{name}.png")
    tree = {"version": "1.0.0", "shapes": shapes, "imagePath": name, "imageHeight": 8, "imageWidth": 12}
    path = folder / f"ann_dir/{name}.json"
    path.write_text(json.dumps(tree))
    return path


def test_all_polygons_are_drawn_later_ones_on_top(tmp_path: Path) -> None:
    shapes = [
        square("grasper", 0, 0, 3, 3),
        square("grasper", 8, 0, 11, 3),
        square("Hook", 2, 2, 5, 5, group=1),
    ]
    mask = read_mask(write(tmp_path, "t80_VID03_000030", shapes))
    expected = np.zeros((8, 12), dtype=np.uint8)
    expected[0:4, 0:4] = expected[0:4, 8:12] = CLASSES.index("grasper")
    expected[2:6, 2:6] = CLASSES.index("hook")
    assert mask.tolist() == expected.tolist()


def test_an_empty_annotation_is_a_frame_without_instruments(tmp_path: Path) -> None:
    assert read_mask(write(tmp_path, "t80_VID03_000000", [])).tolist() == [[0] * 12] * 8


def test_sequences_of_one_video_are_one_case(tmp_path: Path) -> None:
    write(tmp_path / "train/VID01_t50_full", "t50_VID01_000631", [])
    write(tmp_path / "train/VID01_seg8k", "seg8k_video01_015050", [])
    write(tmp_path / "test/VID07_t80_sparse", "t80_VID07_000030", [])
    frames = open_dataset(tmp_path).frames
    assert frames[["case", "video", "time_s", "split"]].to_numpy().tolist() == [
        ["VID01", "VID01_seg8k", 602.0, "train"],
        ["VID01", "VID01_t50", 631.0, "train"],
        ["VID07", "VID07_t80", 30.0, "test"],
    ]
    assert frames.loc[2, "mask"] == "test/VID07_t80_sparse/ann_dir/t80_VID07_000030.json"


def test_the_published_split_has_every_video_once() -> None:
    videos = [video for part in SPLITS["official"].values() for video in part]
    assert len(videos) == len(set(videos)) == 85
    assert set(range(1, 81)) <= set(videos)


def test_a_folder_that_contradicts_the_published_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train/VID07_t80_sparse", "t80_VID07_000030", [])
    with pytest.raises(TrocarError, match="VID07 is in the published split 'test'"):
        open_dataset(tmp_path)


def test_missing_and_strange_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, "t80_VID03_000000", [])
    write(tmp_path, "t80_VID03_000030", []).unlink()
    assert open_dataset(tmp_path).notes[0] == "img_dir: 1 images without an annotation left out"
    (tmp_path / "img_dir/t80_VID03_000000.png").unlink()
    with pytest.raises(TrocarError, match=r"t80_VID03_000000\.json: no image of that name"):
        open_dataset(tmp_path)
    with pytest.raises(TrocarError, match=r"unknown instrument 'graspr' \(did you mean 'grasper'"):
        read_mask(write(tmp_path, "t80_VID03_000000", [square("graspr", 0, 0, 1, 1)]))
    with pytest.raises(TrocarError, match="a shape is a circle"):
        read_mask(write(tmp_path, "t80_VID03_000000", [{**square("hook", 0, 0, 1, 1), "shape_type": "circle"}]))


@pytest.mark.data
def test_real_frames_and_polygons_are_read_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    data = open_dataset(shared_data / "cholec_instance_seg")
    space = data.space("segmentation")
    assert (data.layout, len(data), data.frames["split"].unique().tolist()) == ("cholec_instance_seg", 10, ["val"])
    assert data.frames["time_s"].tolist() == [float(30 * i) for i in range(10)]
    assert space.read_mask is not None
    masks = [space.read_mask(data.root / path) for path in data.frames["mask"]]
    present = [sorted(CLASSES[i] for i in np.unique(mask) if i) for mask in masks]
    labels = [
        sorted({shape["label"] for shape in json.loads((data.root / path).read_text())["shapes"]})
        for path in data.frames["mask"]
    ]
    assert present == labels
    assert present[:3] == [[], ["grasper"], ["grasper", "hook"]]
    for path, mask in zip(data.frames["path"], masks, strict=True):
        with Image.open(data.root / path) as image:
            assert mask.shape == (image.height, image.width)
    pixels = FrameCache(data, tmp_path).get(32)
    assert pixels.shape == (10, 32, 32, 3)
    # Instruments are metal: under the masks the picture has less colour than the tissue around them.
    colour = np.asarray(Image.open(data.root / data.frames["path"][5]).convert("HSV"))[..., 1].astype(float)
    assert colour[masks[5] > 0].mean() < colour[masks[5] == 0].mean()
