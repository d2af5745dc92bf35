"""Own frames: one CSV, optional class names, every task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_folder, write_clip
from PIL import Image

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.frames import FrameCache
from trocar.errors import ConfigError, TrocarError


def write(root: Path, rows: list[dict[str, object]], classes: str | None = None) -> Path:
    for row in rows:
        path = root / str(row["path"]).strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.new("RGB", (4, 2)).save(path)
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
    if classes is not None:
        (root / "classes.yaml").write_text(classes)
    return root


def test_phases_as_numbers_and_tools(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path, cases=2, frames=4))
    assert (data.layout, *(s.classes for s in data.spaces)) == ("folder", ("0", "1"), ("red",))
    assert data.frames["phase"].tolist() == [0, 0, 1, 1] * 2
    assert data.frames["tools/red"].tolist() == [1, 0, 0, 1] * 2
    assert data.notes == ()


def test_rows_left_out_by_the_rate_are_counted(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path, cases=2, frames=4), options=DatasetOptions(fps=0.5))
    assert data.frames["time_s"].tolist() == [0, 2, 0, 2]
    assert data.notes == ("4 of 8 rows used, at 0.5 per second",)


def test_steps_and_criteria(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": "a.png", "video": "v", "time_s": 0, "step": "clip", "cvs_C1": 1, "cvs_C2": 0.333},
        {"path": "b.png", "video": "v", "time_s": 1, "step": "cut ", "cvs_C1": "", "cvs_C2": ""},
    ]
    data = open_dataset(write(tmp_path, rows, "step: [cut, clip, sew]\n"))
    assert data.space("step").classes == ("cut", "clip", "sew")
    assert data.frames["step"].tolist() == [1, 0]
    assert (data.space("cvs").classes, data.space("cvs").soft) == (("C1", "C2"), True)
    assert data.frames[["cvs/C1", "cvs/C2"]].to_numpy().tolist() == [[1, 0.333], [-1, -1]]
    assert data.rows("cvs").tolist() == [0]


def test_hard_criteria_are_not_soft(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": "a.png", "case": "c", "cvs_C1": 1},
        {"path": "b.png", "case": "c", "cvs_C1": 0},
    ]
    assert not open_dataset(write(tmp_path, rows)).space("cvs").soft


def test_masks_with_names_from_classes_yaml(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": "a.png", "case": "c", "mask": "m/a.png"},
        {"path": "b.png", "case": "c", "mask": ""},
    ]
    write(tmp_path, rows, "segmentation: [background, liver]\n")
    (tmp_path / "m").mkdir()
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "m/a.png")
    data = open_dataset(tmp_path)
    space = data.space("segmentation")
    assert data.rows("segmentation").tolist() == [0]
    assert space.read_mask is not None
    assert (space.classes, space.read_mask(tmp_path / "m/a.png").tolist()) == (("background", "liver"), [[0, 1, 255]])
    (tmp_path / "classes.yaml").unlink()
    with pytest.raises(TrocarError, match=r"list them in classes\.yaml under `segmentation`"):
        open_dataset(tmp_path)


def test_rows_can_be_frames_of_videos(tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4", 10)
    rows = [{"path": "v.mp4", "video": "v", "frame": k, "time_s": k / 5, "phase": int(k > 4)} for k in (0, 5)]
    pd.DataFrame(rows).to_csv(tmp_path / "frames.csv", index=False)
    data = open_dataset(tmp_path)
    brightness = FrameCache(data, tmp_path / "cache").get(16).mean((1, 2, 3))
    assert brightness == pytest.approx([16, 56], abs=3)
    pd.DataFrame(rows).drop(columns="time_s").to_csv(tmp_path / "frames.csv", index=False)
    with pytest.raises(TrocarError, match="need `time_s` too"):
        open_dataset(tmp_path)


def test_spaces_around_names_and_in_the_header_do_not_count(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2)).save(tmp_path / "a.png")
    (tmp_path / "frames.csv").write_text("path , case, split, phase\na.png , one , test , Preparation \n")
    frames = open_dataset(tmp_path).frames
    assert frames[["path", "case", "split", "phase"]].to_numpy().tolist() == [["a.png", "one", "test", 0]]


def test_phase_names_come_from_the_options_then_the_file_then_the_table(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"path": f"{i}.png", "case": "c", "phase": name} for i, name in enumerate("ba")]
    write(tmp_path, rows)
    assert open_dataset(tmp_path).space("phase").classes == ("a", "b")
    (tmp_path / "classes.yaml").write_text("phase: [b, a, c]\n")
    assert open_dataset(tmp_path).space("phase").classes == ("b", "a", "c")
    assert open_dataset(tmp_path, options=DatasetOptions(phases=("c", "b", "a"))).frames["phase"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("phases: [a]", r"no task 'phases' \(did you mean 'phase'"),
        ("phase: [a, a]", "phase: expected a list of different names"),
        ("[a, b]", "expected lists under phase, step, segmentation"),
        ("phase: [a", "not valid YAML"),
        ("phase: [b]", "unknown name 'a'"),
    ],
)
def test_bad_class_files_are_refused(tmp_path: Path, classes: str, message: str) -> None:
    with pytest.raises(TrocarError, match=message):
        open_dataset(write(tmp_path, [{"path": "a.png", "case": "c", "phase": "a"}], classes))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "a.png"}, "needs the columns `path` and `case` or `video`"),
        ({"path": "a.png", "case": "c", "time_s": "late", "phase": 0}, "time_s: could not convert"),
        ({"path": "a.png", "case": "c", "tool_x": 2}, "something other than 0, 1 and empty"),
        ({"path": "a.png", "case": "c", "cvs_C1": "yes"}, "something other than numbers and empty"),
        ({"path": "a.png", "case": "c", "cvs_C1": 1.5}, "a label of 'cvs' is outside"),
        ({"path": "a.png", "case": "c"}, "none of the 1 frames found carries a label"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(TrocarError, match=message):
        open_dataset(write(tmp_path, [row]))


def test_missing_images_and_double_rows_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    table = pd.read_csv(tmp_path / "frames.csv")
    pd.concat([table, table.assign(time_s=table["time_s"] + 9).head(1)]).to_csv(tmp_path / "frames.csv", index=False)
    with pytest.raises(TrocarError, match="labelled twice"):
        open_dataset(tmp_path)
    (tmp_path / "images/0_000.png").unlink()
    with pytest.raises(TrocarError, match=r"1 labelled files are missing, the first is images/0_000\.png"):
        open_dataset(tmp_path)


def test_published_splits_are_not_for_own_frames(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    with pytest.raises(ConfigError, match=r"give frames\.csv a column `split`"):
        open_dataset(tmp_path, options=DatasetOptions(split="rdv"))
