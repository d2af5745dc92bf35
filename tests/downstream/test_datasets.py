"""Every layout becomes one table, mapped by name and joined by frame id; contradictions are refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from downstream_factory import make_cholec80, make_folder

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.names import CHOLEC80_PHASES, PHASE_SETS
from trocar.errors import ConfigError, TrocarError


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


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    make_cholec80(tmp_path)
    (tmp_path / "videos/video02.mp4").unlink()
    with pytest.raises(TrocarError, match=r"video02\.mp4 is missing"):
        open_dataset(tmp_path)


def test_the_phantoms_phases_are_known() -> None:
    spec = pytest.importorskip("trocar.phantom.spec")
    assert PHASE_SETS["phantom"] == spec.PHASES


def test_the_fingerprint_follows_the_labels(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    before = open_dataset(tmp_path).fingerprint
    assert open_dataset(tmp_path).fingerprint == before
    table = pd.read_csv(tmp_path / "frames.csv")
    table.loc[0, "phase"] = 1
    table.to_csv(tmp_path / "frames.csv", index=False)
    assert open_dataset(tmp_path).fingerprint != before


def test_bad_folders_and_layouts_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data folder"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"has no layout.*phase_annotations.*frames\.csv"):
        open_dataset(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'cholec80'"):
        open_dataset(tmp_path, layout="cholec8")
