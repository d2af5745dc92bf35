"""Labelled frames read from a shards folder: found by video and time, whatever curation says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_factory import make_catalog
from video_set_factory import grey, write_image, write_text, write_video

from trocar.cli import main
from trocar.data.catalog import Catalog
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.from_shards import label_period, locate
from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.frames import FrameCache
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
