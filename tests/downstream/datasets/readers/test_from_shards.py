"""Labelled frames read from a shards folder: found by video and time, whatever curation says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_factory import make_catalog
from PIL import Image
from video_set_factory import grey, write_image, write_text, write_video

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.readers.videos import label_period, locate
from trocar.downstream.features.frame_cache import FrameCache, decoded
from trocar.downstream.labels import LabelledFrames
from trocar.downstream.mask_survey import check_masks
from trocar.errors import TrocarError


def labels(root: Path, times: dict[str, list[float]]) -> LabelledFrames:
    """Labels at these times; the images beside them are all grey."""
    rows = [(f"{video}_{i}.png", video, t, i % 2) for video, of in times.items() for i, t in enumerate(of)]
    for path, *_ in rows:
        write_image(root / path, 0)
    pd.DataFrame(rows, columns=["path", "video", "time_s", "phase"]).to_csv(root / "frames.csv", index=False)
    return open_dataset(root)


def test_every_label_finds_the_frame_of_its_video_nearest_in_time(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "shards", 3, 6)
    data = locate(labels(tmp_path, {"video02": [0.2, 1.4, 3.4], "video00": [2.0, 4.0]}), tmp_path / "shards")
    first = catalog.videos["first_row"].to_pylist()
    assert data.frames["shard_row"].tolist() == [first[0] + 2, first[0] + 4, first[2], first[2] + 1, first[2] + 3]
    assert data.shards == tmp_path / "shards"
    assert data.frames["path"].tolist()[0] == "video00_0.png"


def test_pixels_are_those_of_the_shards_even_of_frames_that_curation_leaves_out(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "shards", 2, 5, flags=1.0)
    assert catalog.quality(["black"])["black"].all()
    located = locate(labels(tmp_path, {"video01": [0.0, 1.0, 2.0, 3.0, 4.0]}), tmp_path / "shards")
    pixels = FrameCache(located, tmp_path / "cache").get(16)
    whole = FrameCache(labels(tmp_path, {"video01": [0.0, 1.0, 2.0, 3.0, 4.0]}), tmp_path / "cache").get(16)
    assert pixels.shape == (5, 16, 16, 3)
    assert (np.asarray(whole) == 0).all()
    assert [bool(np.asarray(frame).any()) for frame in pixels] == [True] * 5
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_an_ingested_video_gives_the_frames_that_its_labels_mean(tmp_path: Path) -> None:
    for number, start in ((1, 0), (2, 25)):
        video = f"video{number:02d}"
        write_video(tmp_path / f"data/videos/{video}.mp4", 80, 25)
        rows = [(k, "Preparation") for k in range(start, 80)]
        write_text(tmp_path / f"data/phase_annotations/{video}-phase.txt", [("Frame", "Phase"), *rows])
    shards = tmp_path / "shards"
    arguments = ["--out", str(shards), "--crop", "none", "--short-side", "none", "--workers", "1"]
    assert main(["ingest", str(tmp_path / "data/videos"), *arguments]) == 0
    located = locate(open_dataset(tmp_path / "data"), shards)
    assert located.frames["frame"].tolist() == [0, 25, 50, 75, 25, 50, 75]
    brightness = FrameCache(located, tmp_path / "cache").get(16).mean((1, 2, 3))
    assert brightness == pytest.approx(np.array([grey(k) for k in (0, 25, 50, 75, 25, 50, 75)]), abs=3)


def test_labels_without_a_frame_within_half_a_period_are_counted_and_refused(tmp_path: Path) -> None:
    make_catalog(tmp_path / "shards", 1, 4)
    data = labels(tmp_path, {"video00": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]})
    with pytest.raises(TrocarError, match=r"2 of 6 labelled frames have no ingested frame.* video00 at 4 s"):
        locate(data, tmp_path / "shards")
    near = labels(tmp_path, {"video00": [0.5, 1.5, 2.5, 3.5]})
    assert locate(near, tmp_path / "shards").frames["shard_row"].tolist() == [0, 1, 2, 3]


def test_a_video_that_was_not_ingested_is_named(tmp_path: Path) -> None:
    make_catalog(tmp_path / "shards", 1, 4)
    with pytest.raises(TrocarError, match="1 of their videos are not in it, the first is 'video77'"):
        locate(labels(tmp_path, {"video00": [0.0], "video77": [0.0, 1.0]}), tmp_path / "shards")


def test_the_label_period_is_the_median_within_videos() -> None:
    frames = pd.DataFrame({"video": ["a", "a", "a", "b", "b"], "time_s": [0.0, 5.0, 10.0, 0.0, 30.0]})
    assert label_period(frames) == 5.0
    assert label_period(frames.iloc[[0, 3]]) == 1.0


def test_a_damaged_frame_is_named_with_its_label(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "shards", 1, 4)
    located = locate(labels(tmp_path, {"video00": [0.0, 1.0]}), tmp_path / "shards")
    shard = Catalog.open(tmp_path / "shards").shard_paths[0]
    data = bytearray(shard.read_bytes())
    data[int(catalog.frames["offset"][1]) + 40] ^= 255
    shard.write_bytes(bytes(data))
    with pytest.raises(TrocarError, match=r"row 1, video00 at 1 s: checksum differs.*not replaced by others"):
        FrameCache(located, tmp_path / "cache").get(16)


def lit_in_a_box(root: Path, box: tuple[int, int, int, int]) -> LabelledFrames:
    """Pictures of 160 x 96 of a video `v`: black but for the box, where the mask is 1."""
    left, top, width, height = box
    (root / "set/v").mkdir(parents=True)
    (root / "set/m").mkdir()
    mask = np.zeros((96, 160), np.uint8)
    mask[top : top + height, left : left + width] = 1
    rng = np.random.default_rng(0)
    for k in range(4):
        picture = rng.integers(90, 250, (96, 160, 1), np.uint8).repeat(3, axis=-1) * mask[..., None]
        Image.fromarray(picture).save(root / f"set/v/{k}.png")
        Image.fromarray(mask).save(root / f"set/m/{k}.png")
    rows = [(f"v/{k}.png", "v", float(k), f"m/{k}.png") for k in range(4)]
    pd.DataFrame(rows, columns=["path", "video", "time_s", "mask"]).to_csv(root / "set/frames.csv", index=False)
    (root / "set/classes.yaml").write_text("segmentation: [background, tissue]\n")
    return open_dataset(root / "set")


def ingested(root: Path, *more: str) -> Path:
    (root / "in").mkdir(exist_ok=True)
    shutil.copytree(root / "set/v", root / "in/v", dirs_exist_ok=True)
    frames = ["--frames", "{number}.png", "--frames-fps", "1", "--first-number", "0", "--workers", "1"]
    assert main(["ingest", str(root / "in"), "--out", str(root / "shards"), *frames, *more]) == 0
    return root / "shards"


@pytest.mark.parametrize("side", ["48", "none"])
def test_masks_are_cut_to_what_cropped_shards_show(tmp_path: Path, side: str) -> None:
    data = locate(lit_in_a_box(tmp_path, (60, 16, 80, 64)), ingested(tmp_path, "--short-side", side))
    assert "masks of 1 videos are cut" in data.notes[-1]
    shown = data.shown["v"]
    assert shown.size == (160, 96)
    assert np.abs(np.subtract(shown.box, (60, 16, 80, 64))).max() <= 2
    for row, (picture,) in decoded(data, [(shown.box[3], shown.box[2])]):
        mask = data.mask(data.space("segmentation"), row)
        assert mask.shape == (shown.box[3], shown.box[2])
        assert ((picture.max(-1) > 45) == (mask == 1)).mean() > 0.97


def test_masks_of_whole_frames_and_without_shards_stay_whole(tmp_path: Path) -> None:
    whole = lit_in_a_box(tmp_path, (60, 16, 80, 64))
    data = locate(whole, ingested(tmp_path, "--crop", "none"))
    assert data.notes == whole.notes
    assert [one.mask(one.space("segmentation"), 0).shape for one in (whole, data)] == [(96, 160)] * 2


def test_what_ingest_blacked_out_is_not_scored(tmp_path: Path) -> None:
    (tmp_path / "masks.yaml").write_text("ours: [[60, 16, 20, 10]]\n")
    whole = lit_in_a_box(tmp_path, (60, 16, 80, 64))
    shards = ingested(tmp_path, "--crop", "none", "--masks", str(tmp_path / "masks.yaml"), "--source", "ours")
    data = locate(whole, shards)
    mask = data.mask(data.space("segmentation"), 0)
    assert (mask[16:26, 60:80] == 255).all()
    assert (mask == 255).sum() == 200


def test_shards_of_other_pictures_than_those_the_masks_were_drawn_on_are_refused(tmp_path: Path) -> None:
    whole = lit_in_a_box(tmp_path, (60, 16, 80, 64))
    shards = ingested(tmp_path, "--short-side", "none")
    for k in range(4):
        for folder in "vm":
            path = tmp_path / f"set/{folder}/{k}.png"
            Image.open(path).crop((40, 0, 160, 96)).save(path)
    with pytest.raises(TrocarError, match=r"v was ingested from pictures of 160 x 96, those of .* have 120 x 96"):
        check_masks(locate(whole, shards), tmp_path / "cache")


def test_training_and_scoring_see_the_cut_mask(tmp_path: Path) -> None:
    """The constant mask of the majority says tissue everywhere: right on all that the shards show but their edges."""
    lit_in_a_box(tmp_path, (60, 16, 80, 64))
    table = pd.read_csv(tmp_path / "set/frames.csv").assign(case=["a", "b", "a", "b"])
    table.to_csv(tmp_path / "set/frames.csv", index=False)
    words = [
        "evaluate",
        "--data",
        str(tmp_path / "set"),
        "--task",
        "segmentation",
        "protocol=[segmentation]",
        "size=16",
    ]
    more = ["baselines=[majority]", "bootstrap=0", "folds=2", f"shards={ingested(tmp_path)}", f"out={tmp_path / 'out'}"]
    assert main([*words, *more]) == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert row["per_class"]["tissue"] > 0.95
