"""Labels and pictures of videos meet by the times at which pictures are shown, whatever rate the container claims; in a
shards folder too, whatever curation says.
"""

from __future__ import annotations

import json
import random
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_factory import make_catalog
from ingest_clips import WOVEN, comb, constant, make_clip, number_in, set_display_matrix, woven
from PIL import Image
from video_set_factory import grey, write_image, write_text, write_video

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.readers.videos import label_period, locate, probe
from trocar.downstream.features.frame_cache import FrameCache, decoded
from trocar.downstream.labels import LabelledFrames
from trocar.downstream.mask_survey import check_masks
from trocar.errors import TrocarError

VARYING = [*constant(25, 50), *(2 + t for t in constant(10, 30)), *(5 + t for t in constant(25, 50))]
"""25 pictures a second, 10 from 2 s to 5 s, and 25 again until 7 s."""
OF_SECONDS = [0, 25, 50, 60, 70, 80, 105]
"""The picture on display at each second of it."""


def by_native_frame(root: Path, count: int, name: str = "rec1.mp4") -> Path:
    """Cholec80's layout with a phase for every picture; the path of its video."""
    rows = [(k, "Preparation") for k in range(count)]
    write_text(root / "phase_annotations" / "rec1-phase.txt", [("Frame", "Phase"), *rows])
    (root / "videos").mkdir(exist_ok=True)
    return root / "videos" / name


def by_second(root: Path, count: int) -> Path:
    """AutoLaparo's layout with a phase for every second; the path of its video."""
    rows = [(second + 1, 1 + second % 7) for second in range(count)]
    write_text(root / "labels" / "label_01.txt", [("Frame", "Phase"), *rows])
    (root / "videos").mkdir(exist_ok=True)
    return root / "videos" / "01.mp4"


def shown(data: LabelledFrames) -> list[int]:
    """The number that the picture of each row shows."""
    found = {row: number_in(images[0]) for row, images in decoded(data, [(32, 96)])}
    return [found[row] for row in range(len(data))]


def in_shards(data: LabelledFrames, out: Path, fps: str = "1") -> LabelledFrames:
    """The same labels with the pictures of an ingest."""
    keep = ["--crop", "none", "--short-side", "none", "--workers", "1", "--fps", fps]
    assert main(["ingest", str(data.root / "videos"), "--out", str(out), *keep]) == 0
    return locate(data, out)


def test_a_label_of_a_native_frame_has_that_picture_and_its_timestamp(tmp_path: Path) -> None:
    make_clip(by_native_frame(tmp_path, len(VARYING)), VARYING)
    data = open_dataset(tmp_path)
    assert data.frames["frame"].tolist() == OF_SECONDS
    assert data.frames["time_s"].tolist() == pytest.approx([float(VARYING[k]) for k in OF_SECONDS])
    assert shown(data) == OF_SECONDS


def test_a_label_of_a_second_has_the_picture_on_display_at_that_second(tmp_path: Path) -> None:
    make_clip(by_second(tmp_path, 7), VARYING)
    data = open_dataset(tmp_path)
    assert data.frames["time_s"].tolist() == list(range(7))
    assert data.frames["frame"].tolist() == OF_SECONDS
    assert shown(data) == OF_SECONDS


@pytest.mark.parametrize("layout", [by_native_frame, by_second])
def test_shards_give_the_pictures_that_the_video_gives(tmp_path: Path, layout: object) -> None:
    slow = [Fraction(0), Fraction(7, 10), Fraction(23, 10), Fraction(34, 10), Fraction(5), *constant(25, 40)[1:]]
    times = [*slow[:5], *(5 + time for time in slow[5:])]
    make_clip(layout(tmp_path, 44 if layout is by_native_frame else 6), times)  # type: ignore[operator]
    data = open_dataset(tmp_path)
    assert shown(in_shards(data, tmp_path / "shards")) == shown(data)


def test_a_picture_that_stands_for_seconds_has_the_label_of_each(tmp_path: Path) -> None:
    times = [*constant(25, 40), *(Fraction(8, 5) + t for t in constant(10, 5)), *(5 + t for t in constant(25, 25))]
    make_clip(by_second(tmp_path, 6), times)
    data = open_dataset(tmp_path)
    assert data.frames["frame"].tolist() == [0, 25, 44, 44, 44, 45]
    assert data.frames["phase"].tolist() == [0, 1, 2, 3, 4, 5]
    assert shown(data) == [0, 25, 44, 44, 44, 45]
    assert shown(in_shards(data, tmp_path / "shards")) == shown(data)


def test_times_of_a_table_that_are_not_those_of_its_pictures_are_said(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", VARYING)
    rows = [("a.mp4", "a", k, k / 25, 0) for k in (0, 50, 80)]
    write_text(tmp_path / "frames.csv", [("path", "video", "frame", "time_s", "phase"), *rows], sep=",")
    data = open_dataset(tmp_path)
    assert any("`time_s` is up to 1.8 s off" in note for note in data.notes)  # picture 80 is shown at 5 s, not at 3.2 s
    assert shown(data) == [0, 50, 80]
    true = [("a.mp4", "a", k, float(VARYING[k]), 0) for k in (0, 50, 80)]
    write_text(tmp_path / "frames.csv", [("path", "video", "frame", "time_s", "phase"), *true], sep=",")
    assert not any("time_s" in note for note in open_dataset(tmp_path).notes)
    write_text(
        tmp_path / "frames.csv", [("path", "video", "frame", "time_s", "phase"), ("a.mp4", "a", 130, 7, 0)], sep=","
    )
    with pytest.raises(TrocarError, match=r"frame 130 of a\.mp4 is labelled, but it has 130, from 0 on"):
        open_dataset(tmp_path)


def test_an_average_rate_that_is_wrong_plays_no_part(tmp_path: Path) -> None:
    jitter = random.Random(1)
    times = [Fraction(k, 25) + Fraction(jitter.randint(0, 5) if k < 199 else 0, 1000) for k in range(200)]
    make_clip(by_native_frame(tmp_path, 200, "rec1.mkv"), times, tick=Fraction(1, 1000))
    data = open_dataset(tmp_path)
    assert len(data) == 8
    assert data.frames["time_s"].tolist() == pytest.approx(range(8), abs=0.05)
    assert shown(data) == data.frames["frame"].tolist()


def test_all_pictures_are_taken_where_there_are_no_more(tmp_path: Path) -> None:
    clip = probe(make_clip(tmp_path / "a.mp4", constant(25, 40)))
    assert clip.grid(39, 25).tolist() == list(range(40))
    assert clip.grid(39, 60).tolist() == list(range(40))
    assert clip.grid(39, 5).tolist() == list(range(0, 40, 5))
    assert clip.grid(60, 5).tolist() == list(range(0, 61, 5))  # labels may run on behind the last picture
    assert clip.seconds([0, 39, 45]).tolist() == pytest.approx([0, 1.56, 1.8])
    assert (clip.frames, clip.fps, clip.end_s) == (40, 25.0, 1.6)


@pytest.mark.parametrize("name", ["rec1.ts", "rec1.m4v", "rec1.webm", "rec1.MPG", "rec1.avi"])
def test_a_labelled_video_of_any_ending_that_ingest_reads_is_found(tmp_path: Path, name: str) -> None:
    codec = {"webm": "libvpx", "MPG": "mpeg2video"}.get(name[5:], "libx264")
    clip = make_clip(
        tmp_path / name.lower(), constant(25, 60), codec=codec, options={"b": "900k"}, tick=Fraction(1, 25)
    )
    clip.rename(by_native_frame(tmp_path, 60, name))
    assert shown(open_dataset(tmp_path)) == [0, 25, 50]


def test_a_hole_in_a_labelled_video_is_refused_in_the_words_of_ingest(tmp_path: Path) -> None:
    times = [t if t < 2 else t + 3 for t in constant(25, 200)]
    make_clip(by_native_frame(tmp_path, 200), times)
    with pytest.raises(TrocarError, match=r"rec1\.mp4: damaged: .*no frames from 1\.96 s to 5\.00 s; .*a whole copy"):
        open_dataset(tmp_path)


def test_few_missing_pictures_are_said(tmp_path: Path) -> None:
    times = [t if t < 2 else t + Fraction(12, 25) for t in constant(25, 200)]
    make_clip(by_native_frame(tmp_path, 200), times)
    (note,) = [note for note in open_dataset(tmp_path).notes if "missing" in note]
    assert note.startswith("rec1: 12 pictures are missing between others that come 25 times a second")


def test_damage_inside_of_a_labelled_video_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    clip = make_clip(by_native_frame(tmp_path, 100), constant(25, 100), scale=2)
    data = bytearray(clip.read_bytes())
    at = len(data) // 2
    data[at : at + 400] = random.Random(1).randbytes(400)
    clip.write_bytes(data)
    with pytest.raises(TrocarError, match=r"rec1\.mp4: damaged: .* first: .* at [0-9.]+ s"):
        shown(open_dataset(tmp_path))


def test_a_labelled_video_is_shown_as_its_display_matrix_says(tmp_path: Path) -> None:
    clip = make_clip(by_native_frame(tmp_path, 30), constant(25, 30), numbers=[0b000001_001011] * 30)
    upright = dict(decoded(open_dataset(tmp_path), [(32, 96)]))[0][0].astype(int)
    for matrix, shown_as in (
        ((-65536, 0, 0, -65536), upright[::-1, ::-1]),
        ((-65536, 0, 0, 65536), upright[:, ::-1]),
        ((65536, 0, 0, -65536), upright[::-1]),
    ):
        set_display_matrix(clip, *matrix)
        found = dict(decoded(open_dataset(tmp_path), [(32, 96)]))[0][0]
        assert np.abs(found - shown_as).max() <= 2


def test_a_labelled_interlaced_video_is_deinterlaced_as_by_ingest(tmp_path: Path) -> None:
    make_clip(by_native_frame(tmp_path, 30), constant(25, 30), options=WOVEN, pictures=woven(30))
    data = open_dataset(tmp_path)
    of_video = [images[0] for _, images in decoded(data, [(96, 128)])]
    assert max(map(comb, of_video)) < 2.5
    shards = in_shards(data, tmp_path / "shards")
    for one, other in zip(of_video, (images[0] for _, images in decoded(shards, [(96, 128)])), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 4  # but for the JPEG
    assert len(Catalog.open(tmp_path / "shards")) == 2


def test_a_turned_copy_in_a_pool_is_found_by_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (4, 6, 8, 3), dtype=np.uint8)
    pictures = [np.kron(coarse[k // 25], np.ones((16, 16, 1), np.uint8)) for k in range(100)]
    clip = make_clip(by_native_frame(tmp_path / "set", 100), constant(25, 100), pictures=pictures)
    set_display_matrix(clip, -65536, 0, 0, -65536)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "other.mp4").write_bytes(clip.read_bytes())
    assert main(["ingest", str(tmp_path / "pool"), "--out", str(tmp_path / "shards"), "--workers", "1"]) == 0
    capsys.readouterr()
    main(["leaks", str(tmp_path / "shards"), "--against", str(tmp_path / "set")])
    assert "test case seen unlabelled" in " ".join(capsys.readouterr().out.split())


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
