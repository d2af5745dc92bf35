"""Cholec80's layout: joined by native frame index, from videos or from images, with its published lists."""

from __future__ import annotations

import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_cholec80
from video_set_factory import write_image, write_text, write_video

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import CHOLEC80_PHASES, CHOLEC80_TOOLS, DatasetOptions
from trocar.downstream.folds import CHOLEC80, CHOLEC80_ENDOVIT
from trocar.errors import ConfigError, TrocarError


def label(root: Path, video: str, phase_rows: int, tool_ids: list[int]) -> None:
    """Label files as published, 25 frames per second; the phase is ClippingCutting from frame 25 on."""
    phases = [(k, "Preparation" if k < 25 else "ClippingCutting") for k in range(phase_rows)]
    write_text(root / f"phase_annotations/{video}-phase.txt", [("Frame", "Phase"), *phases])
    tools = [(k, 1, 0, k // 25 % 2, 0, 0, 0, 0) for k in tool_ids]
    write_text(root / f"tool_annotations/{video}-tool.txt", [("Frame", *CHOLEC80_TOOLS), *tools])


def test_cholec80_rows_are_joined_by_native_frame_index(tmp_path: Path) -> None:
    data = open_dataset(make_cholec80(tmp_path))
    one = data.frames[data.frames["video"] == "video01"]
    assert one["frame"].tolist() == [0, 5, 10, 15]
    assert one["time_s"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert one["phase"].tolist() == [0, 0, 1, 1]
    assert one["tools/Hook"].tolist() == [0, 0, 1, 1]
    assert [space.classes for space in data.spaces] == [CHOLEC80_PHASES, ("Grasper", "Hook")]
    assert data.frames["case"].nunique() == 3


def test_cholec80_at_another_rate_keeps_tools_where_they_are_labelled(tmp_path: Path) -> None:
    make_cholec80(tmp_path, videos=1)
    dense = open_dataset(tmp_path, options=DatasetOptions(fps=5)).frames
    assert dense["frame"].tolist() == list(range(20))
    assert dense["tools/Grasper"].tolist() == [1, -1, -1, -1, -1] * 4
    assert open_dataset(tmp_path, options=DatasetOptions(fps=0.5)).frames["frame"].tolist() == [0, 10]


def test_labels_just_behind_the_last_frame_are_left_out_and_said(tmp_path: Path) -> None:
    data = open_dataset(make_cholec80(tmp_path, videos=1, extra=2))
    assert data.frames["frame"].tolist() == [0, 5, 10, 15]
    assert data.notes == ("video01: 1 labels after the last of 20 frames left out",)


def test_labels_far_behind_the_last_frame_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match="has 20 frames, but its labels go to frame 40"):
        open_dataset(make_cholec80(tmp_path, videos=1, extra=21))


def test_videos_csv_gives_cases_and_splits(tmp_path: Path) -> None:
    make_cholec80(tmp_path)
    rows = [("video01", "a", "train"), ("video02", "a", "train"), ("video03", "b", "test")]
    pd.DataFrame(rows, columns=["video", "case_id", "split"]).to_csv(tmp_path / "videos.csv", index=False)
    frames = open_dataset(tmp_path).frames
    assert frames.groupby("video")["case"].first().tolist() == ["a", "a", "b"]
    assert frames.groupby("case")["split"].first().to_dict() == {"a": "train", "b": "test"}


def test_a_case_in_two_splits_is_refused(tmp_path: Path) -> None:
    make_cholec80(tmp_path)
    rows = [("video01", "a", "train"), ("video02", "a", "test"), ("video03", "b", "test")]
    pd.DataFrame(rows, columns=["video", "case_id", "split"]).to_csv(tmp_path / "videos.csv", index=False)
    with pytest.raises(TrocarError, match="'a' lies in several splits"):
        open_dataset(tmp_path)


def test_published_splits_go_by_video_number(tmp_path: Path) -> None:
    make_cholec80(tmp_path, videos=2)
    for kind in ("videos/video02.mp4", "phase_annotations/video02-phase.txt", "tool_annotations/video02-tool.txt"):
        path = tmp_path / kind
        path.rename(path.with_name(path.name.replace("02", "45")))
    splits = {name: open_dataset(tmp_path, options=DatasetOptions(split=name)).frames for name in ("40-40", "40-8-32")}
    assert [f.groupby("video")["split"].first().to_dict() for f in splits.values()] == [
        {"video01": "train", "video45": "test"},
        {"video01": "train", "video45": "val"},
    ]
    with pytest.raises(ConfigError, match="did you mean '40-40'"):
        open_dataset(tmp_path, options=DatasetOptions(split="40-4"))


def test_an_unknown_phase_is_named_with_the_nearest_one_unless_phases_are_given(tmp_path: Path) -> None:
    make_cholec80(tmp_path, videos=1)
    path = tmp_path / "phase_annotations/video01-phase.txt"
    path.write_text(path.read_text().replace("Preparation", "Preparatoin"))
    with pytest.raises(TrocarError, match=r"'Preparatoin'.*did you mean 'Preparation'"):
        open_dataset(tmp_path)
    names = ("CalotTriangleDissection", "Preparatoin")
    data = open_dataset(tmp_path, options=DatasetOptions(phases=names))
    assert (data.space("phase").classes, data.frames["phase"].tolist()) == (names, [1, 1, 0, 0])


def test_labelled_videos_that_are_missing_are_said_and_the_others_used(tmp_path: Path) -> None:
    make_cholec80(tmp_path)
    (tmp_path / "videos/video02.mp4").unlink()
    data = open_dataset(tmp_path)
    assert data.frames["video"].unique().tolist() == ["video01", "video03"]
    assert data.notes == ("labelled videos whose pictures are missing: video02",)
    for video in ("video01", "video03"):
        (tmp_path / f"videos/{video}.mp4").unlink()
    with pytest.raises(TrocarError, match=r"videos/video01\.mp4 is missing, and so is frames/video01/"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("kind", ["phase", "tool"])
def test_a_label_file_that_was_cut_off_is_named(tmp_path: Path, kind: str) -> None:
    make_cholec80(tmp_path)
    path = tmp_path / f"{kind}_annotations/video02-{kind}.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4].split("\t")[0]]))
    with pytest.raises(TrocarError, match=rf"video02-{kind}\.txt: row 4: 1 cell, .*; is the file cut off"):
        open_dataset(tmp_path)


def test_labels_that_end_long_before_the_pictures_are_said(tmp_path: Path) -> None:
    make_cholec80(tmp_path, videos=2)
    for kind, kept in (("phase", 7), ("tool", 3)):  # headers included: up to second 1 of four
        path = tmp_path / f"{kind}_annotations/video02-{kind}.txt"
        path.write_text("\n".join(path.read_text().splitlines()[:kept]) + "\n")
    data = open_dataset(tmp_path)
    assert data.notes == ("video02: its labels end at 1 s, its pictures at 4 s",)
    assert (data.frames["video"] == "video02").sum() == 2


def test_the_tool_file_that_differs_is_named_wherever_it_stands(tmp_path: Path) -> None:
    make_cholec80(tmp_path)
    path = tmp_path / "tool_annotations/video01-tool.txt"
    path.write_text("".join(line.rpartition("\t")[0] + "\n" for line in path.read_text().splitlines()))
    with pytest.raises(TrocarError, match=r"video01-tool\.txt: tools Grasper, most files have Grasper, Hook"):
        open_dataset(tmp_path)


def test_one_fps_images_count_from_1(tmp_path: Path) -> None:
    label(tmp_path, "video05", 60, [0, 25, 50])
    for k in (1, 2, 3):
        write_image(tmp_path / f"frames/video05/video05_{k:06d}.png")
    data = open_dataset(tmp_path)
    assert data.frames["path"].tolist() == [f"frames/video05/video05_{k:06d}.png" for k in (1, 2, 3)]
    assert data.frames["frame"].tolist() == [-1, -1, -1]
    assert data.frames["time_s"].tolist() == [0.0, 1.0, 2.0]
    assert data.frames["phase"].tolist() == [0, 2, 2]
    assert data.frames["tools/Hook"].tolist() == [0, 1, 0]
    (tmp_path / "frames/video05/video05_000002.png").unlink()
    with pytest.raises(TrocarError, match=r"the first is frames/video05/video05_000002\.png"):
        open_dataset(tmp_path)


def test_tool_rows_decide_which_frames_there_are_at_1_fps(tmp_path: Path) -> None:
    write_video(tmp_path / "videos/video01.mp4", 100, 25)
    write_video(tmp_path / "videos/video02.mp4", 100, 25)
    label(tmp_path, "video01", 80, [0, 25, 50])  # the phase of frame 75 is behind the last tool row
    label(tmp_path, "video02", 50, [0, 25, 50])  # the tools of frame 50 are behind the last phase row
    data = open_dataset(tmp_path)
    assert data.frames["frame"].tolist() == [0, 25, 50, 0, 25, 50]
    assert data.frames["phase"].tolist() == [0, 2, 2, 0, 2, -1]
    assert data.space("phase").classes == CHOLEC80_PHASES
    assert data.notes[:2] == (
        "video01: 1 phase labels within a second behind the last tool label left out",
        "video02: 1 tool labels without a phase label",
    )


def test_phase_rows_are_joined_by_their_frame_id_even_if_rows_are_missing(tmp_path: Path) -> None:
    write_video(tmp_path / "videos/video01.mp4", 60, 25)
    label(tmp_path, "video01", 60, [0, 25, 50])
    path = tmp_path / "phase_annotations/video01-phase.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3] + lines[8:]) + "\n")
    assert open_dataset(tmp_path).frames["phase"].tolist() == [0, 2, 2]


def test_the_official_number_of_frames_goes_with_the_published_videos_only(tmp_path: Path) -> None:
    write_video(tmp_path / "videos/video01.mp4", 60, 25)
    label(tmp_path, "video01", 60, [0, 25, 50])
    data = open_dataset(tmp_path)
    assert data.official == {("phase", ""): 184_498, ("tools", ""): 184_498}
    assert data.missing("tools", "") == (3, 184_498)
    assert "3 frames at 1 fps; the published data set has 184498" in data.notes
    assert open_dataset(tmp_path, options=DatasetOptions(fps=0.5)).official == {}
    split = open_dataset(tmp_path, options=DatasetOptions(split="40-40"))
    assert split.official == {}
    assert "split 40-40: 39 of 40 train videos are not here: 2, 3, 4, 5, 6 and 34 more" in split.notes
    pd.DataFrame([("video01", "a")], columns=["video", "case_id"]).to_csv(tmp_path / "videos.csv", index=False)
    assert open_dataset(tmp_path).official == {}


def test_the_published_lists_cover_the_80_videos() -> None:
    for name, split in CHOLEC80.items():
        members = [video for videos in split.values() for video in videos]
        assert sorted(members) == list(range(1, 81)), name
    assert len(list(CHOLEC80["rivoir-60-20"]["test"])) == 20
    assert [[len(set(draw)) for draw in draws] for draws in CHOLEC80_ENDOVIT.values()] == [[2] * 3, [4] * 3, [8] * 3]
    train = set(range(1, 41))
    assert all(set(draw) <= train for draws in CHOLEC80_ENDOVIT.values() for draw in draws)


def test_label_budgets_are_offered_where_their_videos_are(tmp_path: Path) -> None:
    for number in (1, 11, 22, 25, 33, 40):
        write_image(tmp_path / f"frames/video{number:02d}/video{number:02d}_000001.png")
        label(tmp_path, f"video{number:02d}", 5, [0])
    folder = tmp_path / "labels/train"
    folder.mkdir(parents=True)
    record = {"unique_id": np.int64(7), "Frame_id": 0, "Phase_gt": 0, "Tool_gt": [0] * 7}
    for draw, videos in enumerate((["video01", "video11"], ["video22"], ["video40"])):
        (folder / f"1fps_12p5_{draw}.pickle").write_bytes(pickle.dumps({video: [record] for video in videos}))
    data = open_dataset(tmp_path)
    assert data.budgets == {
        "endovit-2-videos": (("video25", "video01"), ("video33", "video11"), ("video22", "video40")),
        "selfsupsurg-12.5%": (("video01", "video11"), ("video22",), ("video40",)),
    }
    assert any("endovit-4-videos, endovit-8-videos" in note for note in data.notes)


def test_a_list_that_would_run_code_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "frames/video01/video01_000001.png")
    label(tmp_path, "video01", 5, [0])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/1fps_25_0.pickle").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    with pytest.raises(TrocarError, match=r"1fps_25_0\.pickle: refused: it asks for os\.system"):
        open_dataset(tmp_path)


def test_files_are_called_as_ingest_calls_them(tmp_path: Path) -> None:
    make_cholec80(tmp_path, videos=2)
    apart = unicodedata.normalize("NFD", "Grün")
    (tmp_path / "videos" / "video01.mp4").rename(tmp_path / "videos" / "video01.M4V")
    for path in [*tmp_path.glob("*/video02*")]:
        path.rename(path.with_name(path.name.replace("video02", apart)))
    for folder in ("videos", "phase_annotations", "tool_annotations"):
        for path in [*(tmp_path / folder).iterdir()]:
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    rows = [("videos/video01.M4V", "a", "train"), ("Grün.mp4", "b", "test")]
    pd.DataFrame(rows, columns=["video", "case_id", "split"]).to_csv(tmp_path / "videos.csv", index=False)
    frames = open_dataset(tmp_path).frames
    assert frames.groupby("video")["case"].first().to_dict() == {"video01": "a", "Grün": "b"}
    assert sorted(frames["path"].unique()) == [f"videos/{apart}.mp4", "videos/video01.M4V"]


def test_a_video_under_two_spellings_in_videos_csv_is_refused(tmp_path: Path) -> None:
    make_cholec80(tmp_path, videos=1)
    (tmp_path / "videos.csv").write_text("video,case_id\nvideo01,a\nvideo01.mp4,b\n")
    with pytest.raises(TrocarError, match=r"row 2: video 'video01' is there twice \(also in row 1\)"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "video01,Train\nvideo02,test\nvideo03,train",
            r"row 1: split 'Train': expected train, val, test \(did you mean",
        ),
        ("video01,train\nvideo02,validation\nvideo03,test", r"row 2: split 'validation': .*\(did you mean 'val'\?\)"),
        (
            "video01,train\nvideo02,holdout\nvideo03,test",
            "row 2: split 'holdout': expected train, val, test, as in other",
        ),
        (
            "video01,train;test\nvideo02,test\nvideo03,test",
            "row 1: split 'train;test': a video is in one of train, val",
        ),
        ("video01,train\nvideo02,test\nvideo01,test", r"row 3: video 'video01' is there twice \(also in row 1\)"),
        ("video01,train\nvideo02,test", "no row for the labelled video 'video03'"),
    ],
)
def test_a_split_that_is_spelt_otherwise_is_refused_with_its_row(tmp_path: Path, rows: str, message: str) -> None:
    make_cholec80(tmp_path)
    (tmp_path / "videos.csv").write_text(f"video,split\n{rows}\n")
    with pytest.raises(TrocarError, match=message):
        open_dataset(tmp_path)


def test_case_ids_stay_as_they_are_written_and_tags_may_stand_beside_a_split(tmp_path: Path) -> None:
    make_cholec80(tmp_path)
    (tmp_path / "videos.csv").write_text(
        "video,case_id,split\nvideo01,001,train;fold1\nvideo02,NA,test\nvideo03,1,train\n"
    )
    cases = open_dataset(tmp_path).frames.groupby("video")[["case", "split"]].first()
    assert cases.to_numpy().tolist() == [["001", "train"], ["NA", "test"], ["1", "train"]]
    (tmp_path / "videos.csv").write_text("video,case_id,split\nvideo01,1,fold1\nvideo02,2,fold2\nvideo03,3,\n")
    assert set(open_dataset(tmp_path).frames["split"]) == {""}  # tags of an ingest, which are no splits
    (tmp_path / "videos.csv").write_text("video,case_id\nvideo01,1\nvideo02,\nvideo03,\n")
    assert set(open_dataset(tmp_path).frames["case"]) == {"1", "video02", "video03"}  # as an ingest has it
