"""From a folder to a catalog: names, cases, rejections."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_factory import random_jpeg
from ingest_clips import constant, ingest, make_clip, number_in, stored, tree
from PIL import Image

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest import video
from trocar.data.ingest.framing import IngestSettings
from trocar.errors import ConfigError


def test_frames_in_the_catalog_are_the_right_frames_of_the_video(clips: Path, tmp_path: Path) -> None:
    summary, _ = ingest(clips, tmp_path / "out")
    catalog = Catalog.open(tmp_path / "out")
    assert (summary.videos, summary.frames, len(catalog)) == (3, 9, 9)
    found = {name: [(t, number_in(image)) for t, image in stored(catalog, name)] for name in ("case1_1", "case1_2")}
    assert found["case1_1"] == [(0, 0), (1, 25), (2, 50)]
    assert found["case1_2"] == [(0, 500), (1, 525), (2, 550), (3, 575)]
    assert catalog.videos["duration_s"].to_pylist() == [3, 4, 2]


def test_files_are_cases_of_their_own_with_a_warning_about_parts(clips: Path, tmp_path: Path) -> None:
    _, said = ingest(clips, tmp_path / "out")
    assert Catalog.open(tmp_path / "out").videos["case_id"].to_pylist() == ["case1_1", "case1_2", "case2"]
    assert any("numbered parts (such as case1_1, case1_2)" in line for line in said)


def test_case_regex_joins_the_parts_of_an_operation(clips: Path, tmp_path: Path) -> None:
    _, said = ingest(clips, tmp_path / "out", case_regex=r"(?P<case>.+)_(?P<part>\d)")
    videos = Catalog.open(tmp_path / "out").videos
    assert videos["case_id"].to_pylist() == ["case1", "case1", "case2"]
    assert videos["part"].to_pylist() == [1, 2, 1]
    assert not any("numbered parts" in line for line in said)


def test_videos_csv_beside_the_videos_is_used_and_said(clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "set" / "videos")
    (tmp_path / "set" / "videos.csv").write_text(
        "video,case_id,part,source,hospital,procedure,robotic,split,private,fps\n"
        "case1_1,A,1,ours,north,appendectomy,false,train;k1,true,25\n"
        "case1_2,A,2,ours,north,appendectomy,,train,,25\n"
        "gone,B,1,ours,north,appendectomy,,train,,25\n"
    )
    _, said = ingest(tmp_path / "set", tmp_path / "out")
    rows = {row["name"]: row for row in Catalog.open(tmp_path / "out").videos.to_pylist()}
    keys = ("case_id", "part", "source", "hospital", "procedure", "robotic", "splits", "private", "fps")
    assert [rows["case1_1"][key] for key in keys] == [
        *("A", 1, "ours", "north", "appendectomy", False, ["train", "k1"], True, 1.0)
    ]
    assert [rows["case1_2"][key] for key in keys[:2]] == ["A", 2]
    assert rows["case1_2"]["robotic"] is None
    assert rows["case2"]["source"] == "set"
    assert f"metadata from {tmp_path / 'set' / 'videos.csv'}" in said
    assert "warning: 1 rows of videos.csv have no video: gone" in said
    assert "warning: 1 videos have no row in videos.csv: case2" in said


def test_a_misspelt_column_is_an_error(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("video,hosptial\ncase2,north\n")
    with pytest.raises(ConfigError, match=r"unknown column 'hosptial' \(did you mean 'hospital'\?\)"):
        ingest(clips, tmp_path / "out", metadata=tmp_path / "m.csv")


def test_one_and_two_workers_write_the_same_bytes(clips: Path, tmp_path: Path) -> None:
    ingest(clips, tmp_path / "one")
    ingest(clips, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_bad_videos_are_rejected_by_reason_and_the_others_ingested(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    shutil.copytree(clips, source)
    (source / "zero.mp4").touch()
    (source / "text.mp4").write_text("video01.mp4")
    data = (clips / "case1_2.mp4").read_bytes()
    (source / "truncated.mp4").write_bytes(data[: len(data) // 2])
    middle = bytearray(data)
    middle[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    (source / "broken.mp4").write_bytes(middle)
    arguments = ["ingest", str(source), "--out", str(tmp_path / "out"), "--workers", "1", "--crop", "none"]
    assert main(arguments) == 1
    assert "--allow-rejects" in capsys.readouterr().err
    catalog = Catalog.open(tmp_path / "out")
    assert catalog.videos["name"].to_pylist() == ["case1_1", "case1_2", "case2"]
    reasons = {Path(row["path"]).name: row["reason"] for row in catalog.rejected().to_pylist()}
    assert reasons == {
        "broken.mp4": "damaged",
        "text.mp4": "not a video",
        "truncated.mp4": "truncated",
        "zero.mp4": "empty file",
    }
    assert main([*arguments, "--allow-rejects"]) == 0
    assert catalog.rejected().num_rows == 4
    for name in reasons:
        (source / name).unlink()
    assert main(arguments) == 0
    assert Catalog.open(tmp_path / "out").rejected().num_rows == 0


def test_excluded_seconds_stay_out(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "exclude.csv").write_text("video,start,end\ncase1_1,1,2\ncase1_2,2.5,\n")
    ingest(clips, tmp_path / "out", exclude=tmp_path / "exclude.csv")
    catalog = Catalog.open(tmp_path / "out")
    assert [t for t, _ in stored(catalog, "case1_1")] == [0, 2]
    assert [t for t, _ in stored(catalog, "case1_2")] == [0, 1, 2]
    (tmp_path / "exclude.csv").write_text("video,start,end\ncase1,1,2\n")
    with pytest.raises(ConfigError, match="no video 'case1'"):
        ingest(clips, tmp_path / "out", exclude=tmp_path / "exclude.csv")


@pytest.mark.parametrize("kind", ["yaml", "csv"])
def test_masks_black_out_boxes_of_a_source(clips: Path, tmp_path: Path, kind: str) -> None:
    masks = tmp_path / f"masks.{kind}"
    masks.write_text("ours: [[0, 0, 96, 16]]\n" if kind == "yaml" else "source,left,top,width,height\nours,0,0,96,16\n")
    ingest(clips, tmp_path / "out", masks=masks, source="ours")
    (_, image), *_ = stored(Catalog.open(tmp_path / "out"), "case2")
    pixels = np.asarray(image)
    assert pixels[:14].max() < 12
    assert pixels[18:].min() > 12
    rows = Catalog.open(tmp_path / "out").videos.to_pylist()
    assert [(row["source_size"], row["masks"]) for row in rows] == [([96, 32], [0, 0, 96, 16])] * 3


def test_the_content_box_is_cut_and_recorded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:144, :256]
    disc = ((x - 128) ** 2 + (y - 72) ** 2 < 68**2)[..., None]
    coarse = [rng.integers(60, 250, (9, 16, 3)).repeat(16, 0).repeat(16, 1) for _ in range(50)]
    pictures = [(p * disc).astype(np.uint8) for p in coarse]
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "round.mp4", constant(25, 50), pictures=pictures)
    ingest(tmp_path / "in", tmp_path / "out", settings=IngestSettings(short_side=64))
    catalog = Catalog.open(tmp_path / "out")
    row = catalog.videos.to_pylist()[0]
    assert row["content"] == "circle"
    assert np.abs(np.subtract(row["crop"], (60, 4, 136, 136))).max() <= 4
    assert (row["source_size"], row["masks"]) == ([256, 144], [])
    for _, image in stored(catalog, "round"):
        assert min(image.size) == 64
        lit = np.asarray(image.convert("L")) > 20
        assert lit[:, 28:36].mean() > 0.95
        assert not lit[:4, :4].any()


@pytest.mark.parametrize("gop", [10, 250])
def test_the_box_of_a_long_video_is_found_without_holding_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gop: int
) -> None:
    monkeypatch.setattr(video, "_BUFFER_BYTES", 0)
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 32:96] = np.random.default_rng(0).integers(80, 250, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    # Black for the first half: one key frame at the start would see nothing.
    pictures = [pixels * (i >= 50) for i in range(100)]
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "v.mp4", constant(25, 100), pictures=pictures, gop=gop)
    ingest(tmp_path / "in", tmp_path / "out", settings=IngestSettings(short_side=None))
    row = Catalog.open(tmp_path / "out").videos.to_pylist()[0]
    assert row["content"] == "rectangle"
    assert np.abs(np.subtract(row["crop"], (32, 0, 64, 64))).max() <= 2


def test_canonical_frames_are_packed_byte_for_byte_and_others_encoded(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "v1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    jpegs = [random_jpeg(rng, (96, 64)) for _ in range(3)]
    for number, data in enumerate(jpegs):
        (folder / f"{number:04d}.jpg").write_bytes(data)
    Image.open(folder / "0000.jpg").save(folder / "0003.jpg", progressive=True, comment=b"patient")
    Image.open(folder / "0000.jpg").resize((192, 128)).save(folder / "0004.jpg")
    (folder / "0005.jpg").write_text("../v2/0005.jpg")
    given = {"frames": "{number:04d}.jpg", "frames_fps": 1.0, "first_number": 0}
    settings = IngestSettings(short_side=64)
    summary, said = ingest(tmp_path / "in", tmp_path / "out", settings=settings, **given)
    assert "v1: 6 files, 0000.jpg to 0005.jpg are 0.00 s to 5.00 s" in said
    catalog = Catalog.open(tmp_path / "out")
    assert catalog.frames["crc32"][:3].tolist() == [zlib.crc32(data) for data in jpegs]
    shard = catalog.shard_paths[0].read_bytes()
    assert all(data in shard for data in jpegs)
    assert b"patient" not in shard
    assert catalog.frames["width"].tolist() == [96] * 5
    assert catalog.videos["source_size"].to_pylist() == [[]]  # one picture is twice as large as the others
    assert [(r.reason, Path(r.path).name) for r in summary.rejected] == [("not an image", "0005.jpg")]
    assert catalog.rejected()["reason"].to_pylist() == ["not an image"]
    # A finished folder still says what it left out.
    assert len(ingest(tmp_path / "in", tmp_path / "out", settings=settings, **given)[0].rejected) == 1


def test_a_frame_folder_without_pattern_fps_and_first_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "v1").mkdir(parents=True)
    (tmp_path / "in" / "v1" / "1.jpg").write_bytes(random_jpeg(np.random.default_rng(0)))
    with pytest.raises(ConfigError, match="say --frames-fps and --first-number"):
        ingest(tmp_path / "in", tmp_path / "out", frames="{number}.jpg")
    (tmp_path / "in" / "videos.csv").write_text("video,frames,frames_fps,first_number\nv1,{number}.jpg,25,1\n")
    ingest(tmp_path / "in", tmp_path / "out")
    assert len(Catalog.open(tmp_path / "out")) == 1


def test_nothing_good_is_exit_1_with_the_reasons_kept(tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").touch()
    assert main(["ingest", str(tmp_path / "zero.mp4"), "--out", str(tmp_path / "out"), "--allow-rejects"]) == 1
    assert Catalog.open(tmp_path / "out").rejected()["reason"].to_pylist() == ["empty file"]


def test_bad_arguments_are_exit_2(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", str(clips), "--out", str(tmp_path / "out"), "--crop", "circle"]) == 2
    assert "settings.crop = 'circle'" in capsys.readouterr().err
    assert main(["ingest", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_inspect_counts_and_verifies(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(clips, tmp_path / "out", source="ours")
    arguments = ["inspect", str(tmp_path / "out"), "--sheet", str(tmp_path / "sheet.png"), "--verify"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "3 videos, 3 cases, 0.00 h, 9 frames" in text
    assert Image.open(tmp_path / "sheet.png").size == (1280, 2 * (112 + 2 * 12 + 4))  # 9 frames: two rows of 8
    shard = tmp_path / "out" / "shards" / "case2-0000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    assert main([*arguments[:2], "--verify"]) == 1
    assert "case2-0000.tar: differs from its checksum" in capsys.readouterr().out.replace("\n", "")


def test_the_record_is_plain_json(clips: Path, tmp_path: Path) -> None:
    ingest(clips, tmp_path / "out", source="ours")
    record = json.loads((tmp_path / "out" / "videos" / "case2.json").read_text())
    assert record["metadata"]["source"] == "ours"
    assert record["shards"][0]["path"] == "shards/case2-0000.tar"
